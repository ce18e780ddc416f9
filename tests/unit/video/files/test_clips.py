"""Finding clips in folders, and errors in files."""

from pathlib import Path

import numpy as np
import pytest

from common.config.settings import TaskName
from common.errors import DataError
from coordinator.video.files.clips import Clip, Clips, find
from coordinator.video.files.labels import FrameLabels, Label
from tests.support.videos import frames_of, write_clip


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("mov", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx-vp9")],
)
def test_every_container_is_found_and_decoded(tmp_path: Path, suffix: str, codec: str) -> None:
    write_clip(tmp_path / "a" / f"x.{suffix}", 20, codec=codec)
    clips = find(tmp_path, "*", 1)
    assert abs(clips.clips[0].frames - 20) <= 1
    frames = frames_of(clips.clips[0].path)
    assert frames.shape == (20, 3, 20, 24)
    assert frames.max() > 180
    assert frames[0].min() < 140


def test_folders_are_classes_in_alphabetical_order(videos: Path) -> None:
    clips = find(videos / "train", "*", 1)
    assert clips.classes == ["ant", "bee", "cat"]
    assert [clip.label for clip in clips.clips] == [0] * 3 + [1] * 3 + [2] * 3
    assert [clip.frames for clip in clips.clips] == [5, 17, 31, 8, 23, 40, 12, 9, 26]
    assert find(videos / "train", "*", 4).clips[2].frames == 8
    assert find(videos / "train", "bee/*", 1).classes == ["bee"]


def test_without_labels_any_folder_layout_is_accepted(tmp_path: Path) -> None:
    write_clip(tmp_path / "x.mp4", 3)
    write_clip(tmp_path / "deep" / "er" / "y.mp4", 3)
    clips = find(tmp_path, "*", 1, labelled=False)
    assert (len(clips.clips), clips.classes) == (2, ["video"])


def spoil(folder: Path) -> None:
    (folder / "a").mkdir(parents=True, exist_ok=True)
    (folder / "a" / "empty.mp4").touch()
    (folder / "a" / "noise.mp4").write_bytes(bytes(range(256)) * 40)


def test_unreadable_files_are_skipped_with_a_reason(tmp_path: Path) -> None:
    write_clip(tmp_path / "a" / "good.mp4", 9)
    spoil(tmp_path)
    clips = find(tmp_path, "*", 1)
    assert [clip.path.name for clip in clips.clips] == ["good.mp4"]
    assert {path.name for path in clips.bad} == {"empty.mp4", "noise.mp4"}
    warnings = "\n".join(clips.warnings(mismatch=8))
    assert "the file is empty" in warnings
    assert "noise.mp4 cannot be read" in warnings
    assert "only one clip" in warnings
    assert "at most 8 frames" not in warnings
    assert "1 of 1 clips" in "\n".join(clips.warnings(mismatch=9))


@pytest.mark.parametrize("case", ["missing", "no videos", "all bad", "pattern", "flat"])
def test_an_unusable_folder_is_an_error(tmp_path: Path, case: str) -> None:
    if case == "all bad":
        spoil(tmp_path)
    if case in ("pattern", "flat"):
        write_clip(tmp_path / ("a" if case == "pattern" else "") / "x.mp4", 3)
    (tmp_path / "b").mkdir()
    root, include = tmp_path / "nowhere" if case == "missing" else tmp_path, "z*" if case == "pattern" else "*"
    messages = {"missing": "there is no folder", "all bad": "none of the 2 videos", "pattern": "matching 'z"}
    with pytest.raises(DataError, match=messages.get(case, "no videos in")):
        find(root, include, 1)


def test_validation_classes_must_be_known(videos: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "dog" / "x.mp4", 3)
    with pytest.raises(DataError, match="classes that the training clips lack: dog"):
        find(tmp_path, "*", 1, classes=["ant", "bee", "cat"])


def test_warnings_name_classes_without_clips(tmp_path: Path) -> None:
    clips = Clips(tmp_path, ["a", "b"], [Clip(tmp_path / "x", 0, 9)] * 2)
    assert any("no readable clip" in text and "b" in text for text in clips.warnings(0))


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("classify", [0, 1, 3]),
        ("multilabel", [(1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)]),
        (
            "classify",
            [FrameLabels(np.array([0, 5]), np.array([0, 1])), FrameLabels(np.array([0, 3]), np.array([3, -1]))],
        ),
    ],
)
def test_numbers_that_are_no_label_are_named_as_classes_without_clips(
    tmp_path: Path, task: TaskName, labels: list[Label]
) -> None:
    numbers, clips = ["0", "1", "2", "3"], [Clip(tmp_path / "x", label, 9) for label in labels] * 2
    (note,) = Clips(tmp_path, numbers, clips, task=task).warnings(0)
    assert note.startswith(f"no readable clip in {tmp_path} for 2: numeric labels make every number up to 3 a class")
    (note,) = Clips(tmp_path, numbers, clips, task=task, part="val").warnings(0)
    assert note == f"no readable clip in {tmp_path} for 2", "the training clips have said why"


def test_numbers_to_regress_are_no_classes(tmp_path: Path) -> None:
    assert Clips(tmp_path, ["0", "1"], [Clip(tmp_path / "x", (0.0, -2.0), 9)], task="regress").warnings(0) == []
