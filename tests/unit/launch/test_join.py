"""Which run file a process of a run uses, and which roles there are."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from coordinator.launch import join as module
from coordinator.launch.join import join, resumed


def test_a_resumed_run_has_its_own_run_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no run\.toml in it"):
        resumed(None, tmp_path)
    (tmp_path / "run.toml").touch()
    assert resumed(None, tmp_path) == tmp_path / "run.toml"
    assert resumed(Path("other.toml"), tmp_path) == Path("other.toml")
    with pytest.raises(ConfigError, match="pass a run file"):
        resumed(None, None)


def test_an_unknown_role_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "remember_parent", lambda: None)
    with pytest.raises(ConfigError, match="--role driver is unknown"):
        join(None, "driver", None, None, False)
