"""`sideways init`: the settings that it chooses, and the file that it writes."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from common.config.run_file import load
from common.errors import SidewaysError
from coordinator.cli.offline import tools
from coordinator.tools.first_run_file import Machine, Suggestion, settings_of, suggest, text_of, write
from coordinator.tools.folder_survey import FolderSurvey

HERE = Machine(cores=16, gpus=0, free=32 << 30)


def found(lengths: list[int], **fields: Any) -> FolderSurvey:
    classes = ["ant", "bee"]
    about = {"train": Path("clips"), "val": None, "task": "classify", "classes": classes, "lengths": lengths}
    return FolderSurvey(**{**about, "width": 320, "height": 240, "rate": 25.0, "grey": False, **fields})


@pytest.mark.parametrize(
    ("frames", "cores", "gpus", "stages"), [(40, 16, 0, 8), (40, 2, 0, 2), (9, 16, 0, 3), (3, 16, 0, 1), (40, 16, 4, 4)]
)
def test_as_many_stages_as_the_machine_and_the_clips_allow(frames: int, cores: int, gpus: int, stages: int) -> None:
    assert suggest(found([frames] * 50), Machine(cores, gpus, 1 << 30)).stages == stages


def test_settings_follow_the_videos() -> None:
    clips = [30] * 100
    assert suggest(found(clips), HERE) == Suggestion(64, 72, 3, 32, 8, 1969, 21, True, 178)
    assert suggest(found(clips, task="autoencode"), HERE).slots == 8
    assert suggest(found(clips, grey=True), HERE).channels == 1
    assert suggest(found(clips, width=30, height=20), HERE).size == 16
    assert suggest(found([30] * 5), HERE).slots == 4
    assert not suggest(found([8] * 100), HERE).motion
    assert suggest(found(clips), Machine(16, 0, 100 << 20)).cache_size == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"task": "autoencode", "classes": [], "grey": True, "deep": True},
        {"train": Path('a "quoted" \\ folder'), "val": Path("válido"), "notes": ["a\nlong\x00 note " * 20]},
    ],
)
def test_the_file_is_valid(fields: dict[str, Any]) -> None:
    videos = found([30] * 100, **fields)
    chosen = suggest(videos, HERE)
    config = settings_of(text_of(videos, chosen, HERE, 12.5))
    assert (config.task, config.stages, config.epochs) == (videos.task, chosen.stages, chosen.epochs)
    assert config.data.bits == (16 if videos.deep else 8)
    assert (config.data.train, config.data.val, config.data.slots) == (videos.train, videos.val, chosen.slots)


@pytest.mark.parametrize(
    ("classes", "flip"),
    [
        (["left", "right"], 0),
        (["jump", "turn_Right"], 0),
        (["TurnLeft", "jump"], 0),
        (["bright", "cleft", "Leftover"], 0.5),
    ],
)
def test_clips_are_not_mirrored_where_left_and_right_matter(classes: list[str], flip: float) -> None:
    videos = found([30] * 100, classes=classes)
    text = text_of(videos, suggest(videos, HERE), HERE)
    assert settings_of(text).data.flip == flip
    assert ("not mirrored, as left and right matter: a class is named" in text) == (flip == 0)


def test_it_is_written_once(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    done = CliRunner().invoke(tools, ["init", str(videos), "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert "9 clips of 3 classes" in done.output
    text = out.read_text()
    assert "the stages need about" in text
    assert load(out).data.train == videos / "train"
    again = CliRunner().invoke(tools, ["init", str(videos), "--out", str(out)])
    assert "already exists and is not overwritten" in str(again.exception)
    assert out.read_text() == text


def test_a_folder_whose_name_no_run_file_can_hold_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="the folder's name is not UTF-8, as run files are: rename it"):
        write(tmp_path / "run.toml", 'train = "\udcff"')
    assert not (tmp_path / "run.toml").exists()
