"""Which run file a process of a run uses, and which roles there are."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from coordinator.launch import role as module
from coordinator.launch.role import resumed, run_role


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
        run_role(None, "driver", None, None, False)


def test_the_last_ranks_are_readers_if_the_run_file_asks_for_any(tmp_path: Path) -> None:
    file, settings = tmp_path / "run.toml", ["stages=2", "replicas=2"]  # without which two readers are too many
    file.write_text('ticks = 1\ndata = { train = "." }')

    def roles(run_file: Path | None, resume: Path | None, readers: int) -> list[str]:
        own = [*settings, f"data.readers={readers}"]
        return [module._by_rank(rank, 7, run_file, resume, own) for rank in (0, 1, 4, 5, 6)]

    assert roles(file, None, 2) == ["coordinator", "stage", "stage", "reader", "reader"]
    assert roles(None, tmp_path, 1) == ["coordinator", "stage", "stage", "stage", "reader"]
    assert roles(file, None, 0) == ["coordinator", *["stage"] * 4]
    assert roles(None, None, 2) == ["coordinator", *["stage"] * 4]
    assert roles(tmp_path / "elsewhere.toml", None, 2) == ["coordinator", *["stage"] * 4]
