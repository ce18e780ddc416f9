"""What a folder of videos is found to hold."""

from pathlib import Path

import pytest

from common.errors import DataError
from coordinator.tools.folder_survey import survey
from tests.support.depth import write_depth
from tests.support.shards import write_shards
from tests.support.videos import write_at, write_clip, write_pictures


def test_labelled_clips_with_a_validation_part(videos: Path) -> None:
    found = survey(videos)
    assert (found.train, found.val) == (videos / "train", videos / "val")
    assert found.task == "classify"
    assert list(found.classes) == ["ant", "bee", "cat"]
    assert list(found.lengths) == [5, 17, 31, 8, 23, 40, 12, 9, 26]
    assert (found.width, found.height, found.rate) == (24, 20, 25)
    assert not found.grey


def test_a_folder_of_classes_alone(videos: Path) -> None:
    found = survey(videos / "train")
    assert (found.train, found.val, found.task) == (videos / "train", None, "classify")


def test_a_list(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "v").symlink_to(videos)
    file, rows = tmp_path / "clips.csv", [f"v/train/{name}/1.mp4,{name}" for name in ("ant", "bee")]
    rows += [f"v/train/{name}/2.mp4,{name}" for name in ("ant", "bee")]
    file.write_text("\n".join(["path,label", *rows]))
    found = survey(file)
    assert (found.train, found.val, found.task, list(found.classes)) == (file, None, "classify", ["ant", "bee"])
    file.write_text("\n".join(["path,class", *rows]))
    found = survey(file)
    assert (found.task, len(found.lengths)) == ("autoencode", 4)
    assert "no classes are read from the list" in found.notes[-1]


@pytest.mark.parametrize("names", [["a.mp4", "b.mp4"], ["one/a.mp4", "two/b.mp4"], ["one/a.mp4", "one/b.mp4"]])
def test_clips_without_labels(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        write_clip(tmp_path / name, 6, seed=number)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = survey(tmp_path)
    assert found.task == "autoencode"
    assert list(found.lengths) == [6, 6]
    assert "broken.mp4 cannot be read" in " ".join(found.notes)


def test_a_validation_part_with_other_classes_is_left_out(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(videos / "train")
    write_clip(tmp_path / "test/dog/1.mp4", 6)
    found = survey(tmp_path)
    assert found.val is None
    assert "dog" in " ".join(found.notes)


def test_grey_frames(tmp_path: Path) -> None:
    write_at(tmp_path / "a.mp4", range(0, 40, 4))
    assert survey(tmp_path).grey


def test_depth_frames(tmp_path: Path, videos: Path) -> None:
    write_depth(tmp_path / "a.mkv", 3)
    found = survey(tmp_path)
    assert (found.grey, found.deep) == (True, True)
    assert not survey(videos).deep


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_videos_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no folder|no videos"):
        survey(tmp_path / name)


def test_numbers_that_are_no_label_are_named(tmp_path: Path) -> None:
    clips = [(write_clip(tmp_path / f"{number}.mp4", 6, seed=number), label) for number, label in enumerate([0, 3] * 2)]
    write_shards(tmp_path / "shards", clips, 4)
    found = survey(tmp_path / "shards")
    assert (found.task, len(found.classes)) == ("classify", 4)
    assert "no readable clip" in " ".join(found.notes)
    assert "for 1, 2: numeric labels make every number up to 3 a class" in " ".join(found.notes)


def test_a_list_of_folders_of_frames(tmp_path: Path) -> None:
    for number in range(3):
        write_pictures(tmp_path / f"{number}", "{}.png", 4)
    (tmp_path / "list.txt").write_text("0 4 0\n1 4 1\n2 4 0\n")
    found = survey(tmp_path / "list.txt")
    assert (list(found.lengths), found.rate) == ([4, 4, 4], 0)
