"""Run directories that a new run of their name replaces."""

from pathlib import Path

import pytest

from common.errors import ConfigError, SidewaysError
from coordinator.python.overwriting import overwriting
from coordinator.run_directory import RunDirectory


def trained(path: Path, tick: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(path)
    run.metric({"kind": "progress", "tick": tick})
    run.close()


def test_the_old_directory_is_removed_once_the_new_run_has_trained(tmp_path: Path) -> None:
    path = tmp_path / "runs/it"
    trained(path, 1)
    with overwriting(path):
        assert not path.exists()
        trained(path, 2)
    assert '"tick": 2' in (path / "metrics.jsonl").read_text()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("began", [False, True])
def test_it_is_put_back_if_the_new_run_fails_before_its_first_tick(began: bool, tmp_path: Path) -> None:
    path = tmp_path / "runs/it"
    trained(path, 1)

    def fail() -> None:
        if began:
            path.mkdir()
            RunDirectory(path).close()
        raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed"), overwriting(path):
        fail()
    assert '"tick": 1' in (path / "metrics.jsonl").read_text()
    assert list(path.parent.iterdir()) == [path]


def test_neither_the_directory_of_a_live_run_nor_another_folder_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is not a run's"), overwriting(tmp_path / "mine"):
        pytest.fail("it must not begin")
    (tmp_path / "it").mkdir()
    run = RunDirectory(tmp_path / "it")
    run.metric({"tick": 1})
    with pytest.raises(SidewaysError, match="another process is training in"), overwriting(tmp_path / "it"):
        pytest.fail("it must not begin")
    run.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it", "mine"]
