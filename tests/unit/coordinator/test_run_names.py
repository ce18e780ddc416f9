"""Names of runs: which are free, and which run directories are used again."""

from pathlib import Path

import pytest

from common.config.settings import Config
from common.errors import SidewaysError
from coordinator.run_directory import RunDirectory
from coordinator.run_names import create, is_taken
from tests.support.settings import config_of


def named(folder: Path) -> Config:
    return config_of(folder, runs=str(folder), name="it")


def test_the_directory_of_a_run_that_never_ticked_is_used_again(tmp_path: Path) -> None:
    path = create(named(tmp_path), "run.toml")
    run = RunDirectory(path)
    with pytest.raises(SidewaysError, match="another process is training in"):
        create(named(tmp_path), "run.toml")
    run.save_summary({"ticks": 0})
    run.close()
    (path / "notes.txt").write_text("of another program")
    assert not is_taken(path)
    assert create(named(tmp_path), "run.toml") == path
    assert sorted(file.name for file in path.iterdir()) == [".lock", "metrics.jsonl", "notes.txt"]


@pytest.mark.parametrize("left", ["metrics.jsonl", "model.safetensors", "checkpoints/0000000010/position.json"])
def test_one_that_left_anything_of_a_training_is_kept(left: str, tmp_path: Path) -> None:
    path = create(named(tmp_path), "run.toml")
    RunDirectory(path).close()
    (path / left).parent.mkdir(parents=True, exist_ok=True)
    (path / left).write_text("{}")
    with pytest.raises(SidewaysError, match=r"it already exists: go on with it by --resume .*/it"):
        create(named(tmp_path), "run.toml")


def test_a_folder_that_no_run_made_is_kept(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(SidewaysError, match="already exists"):
        create(named(tmp_path), "run.toml")
