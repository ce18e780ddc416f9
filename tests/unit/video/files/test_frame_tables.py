"""Labels of frames, from tables."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data, TaskName
from common.errors import ConfigError, DataError
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clips, collect
from coordinator.video.files.labels import FrameLabels
from coordinator.video.slots import Slots
from tests.support.videos import write_clip, write_pictures

FRAMES = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips 1.mp4 and 2.mkv, of 12 frames, 25 a second."""
    folder = tmp_path_factory.mktemp("frames")
    for name in ("1.mp4", "2.mkv"):
        write_clip(folder / name, FRAMES)
    return folder


def found(root: Path, text: str, task: TaskName = "classify", **data: Any) -> Clips:
    (root / "labels.csv").write_text(text)
    settings = Data(**{"train": root, "train_labels": root / "labels.csv", "labels_of": "frames", "slots": 2, **data})
    return collect(settings, "train", task=task)


def labels_in(clips: Clips, number: int = 0) -> np.ndarray:
    label = clips.clips[number].label
    assert isinstance(label, FrameLabels)
    return label.at(np.arange(clips.clips[number].frames))


def test_segments_and_single_frames(root: Path) -> None:
    clips = found(root, "path,start,end,label\n1.mp4,0,3,run\n1.mp4,5,12,jump\n1.mp4,4,5,\n")
    assert clips.classes == ["jump", "run"]
    assert labels_in(clips).tolist() == [1, 1, 1, -1, -1, 0, 0, 0, 0, 0, 0, 0]
    assert labels_in(clips, 1).tolist() == [-1] * FRAMES
    clips = found(root, "path,start_seconds,end_seconds,label\n1.mp4,0.04,0.2,a\n2.mkv,0.1,1.0,b\n")
    assert labels_in(clips).tolist() == [-1, 0, 0, 0, 0] + [-1] * 7
    assert labels_in(clips, 1).tolist() == [-1] * 3 + [1] * 9  # 2.5 to the end
    clips = found(root, "path,frame,x,y\n1.mp4,1,0.5,-2\n1.mp4,11,3,4\n", "regress")
    assert labels_in(clips)[[1, 11]].tolist() == [[0.5, -2.0], [3.0, 4.0]]
    assert np.isnan(labels_in(clips)).sum() == 2 * (FRAMES - 2)


def test_several_classes_overlap(root: Path) -> None:
    clips = found(root, "path,start,end,labels\n1.mp4,0,3,a;b\n1.mp4,2,5,c\n1.mp4,10,12,\n", "multilabel")
    labels = labels_in(clips)
    assert labels[:6].tolist() == [[1, 1, 0]] * 2 + [[1, 1, 1]] + [[0, 0, 1]] * 2 + [[0, 0, 0]]
    assert np.isnan(labels[10:]).all()
    labels = labels_in(found(root, "path,frame,label\n1.mp4,3,a\n1.mp4,3,b\n1.mp4,4,-\n", "multilabel"))
    assert labels[3:5].tolist() == [[1, 1], [0, 0]]
    assert np.isnan(labels[[0, 5]]).all()


@pytest.mark.parametrize("sampling", [{"stride": 3}, {"fps": 10.0}])
def test_labels_follow_the_sampling(root: Path, sampling: dict[str, Any]) -> None:
    every = sampling.get("stride", 2.5)
    rows = "".join(f"1.mp4,{frame},{frame}\n" for frame in range(FRAMES))
    clips = found(root, f"path,frame,number\n{rows}", "regress", **sampling)
    labels = labels_in(clips)[:, 0].tolist()
    assert labels == [math.floor(number * every) for number in range(len(labels))]


def test_tables_beside_clips_or_in_a_folder(root: Path, tmp_path: Path) -> None:
    data = Data(train=root, labels_of="frames", train_include="1.mp4")
    with pytest.raises(DataError, match=r"there is no file .*1\.csv with the labels of the frames of 1\.mp4"):
        collect(data, "train")
    (root / "1.csv").write_text("start,end,label\n0,12,run\n")
    assert labels_in(collect(data, "train")).tolist() == [0] * FRAMES
    (root / "1.csv").unlink()
    (tmp_path / "1.csv").write_text("frame,label\n7,run\n")
    assert labels_in(collect(data.model_copy(update={"train_labels": tmp_path}), "train"))[7] == 0
    write_pictures(tmp_path / "walk.1", "img_", 4)
    (tmp_path / "list.txt").write_text("walk.1 4 x\n")
    (tmp_path / "walk.1.csv").write_text("frame,label\n3,run\n")
    frames = Data(train=tmp_path / "list.txt", labels_of="frames", format="frames")
    assert labels_in(collect(frames, "train")).tolist() == [-1, -1, -1, 0]
    (tmp_path / "walk.1.csv").write_text("start_seconds,end_seconds,label\n0,1,run\n")
    with pytest.raises(DataError, match="folders of frames have no seconds: use the columns start and end"):
        collect(frames, "train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.mp4,0,13,a\n", r"labels\.csv, line 2: frame 12, but .*1\.mp4 has the frames 0 … 11: remove the line"),
        ("1.mp4,0,3,a\n1.mp4,2,5,b\n", r"line 3: it gives frames another label that line 2 has labelled too"),
        ("1.mp4,3,3,a\n", "line 2: the segment ends at 3, but begins at 3"),
        ("1.mp4,-1,3,a\n", "start, end = -1, 3: expected whole numbers from 0 on"),
        ("1.mp4,0.5,3,a\n", r"start, end = 0\.5, 3: expected whole numbers from 0 on"),
        ("1.mp4,one,3,a\n", "start, end = one, 3: expected whole numbers"),
    ],
)
def test_a_bad_place_is_an_error_that_names_the_line(root: Path, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(root, f"path,start,end,label\n{rows}")


def test_a_label_too_many_is_an_error(root: Path) -> None:
    rows = "".join(f"2.mkv,{frame},0\n" for frame in range(FRAMES + 1))
    with pytest.raises(DataError, match=r"line 14: frame 12, but .*2\.mkv has the frames 0 … 11"):
        found(root, f"path,frame,x\n{rows}", "regress")
    with pytest.raises(DataError, match=r"line 2: x is nan, which is no number to learn"):
        found(root, "path,frame,x\n2.mkv,0,nan\n", "regress")


@pytest.mark.parametrize("start", [0, 7])
def test_rows_carry_the_labels_of_their_frames_also_after_a_resume(root: Path, start: int) -> None:
    rows = "".join(
        f"{name},{frame},{frame},{part}\n" for part, name in enumerate(("1.mp4", "2.mkv")) for frame in range(FRAMES)
    )
    data: dict[str, Any] = {"stride": 2, "window": 4, "size": 16}
    clips = found(root, f"path,frame,number,clip\n{rows}", "regress", **data)
    settings = Data(train=root, slots=2, **data)
    whole = played(Slots(Job(clips.clips, settings, 3, True), form=clips.form), 20)
    assert all(labels[1] in (0, 1) and labels[0] % 2 == 0 for tick in whole for labels in tick)
    firsts = {tuple(tick[slot]) for tick in whole[::4] for slot in range(2)}
    assert len(firsts) > 2  # windows begin at random frames
    assert all(whole[tick][0][0] == whole[tick - 1][0][0] + 2 for tick in range(1, 20) if tick % 4)
    stream = Slots(Job(clips.clips, settings, 3, True), form=clips.form)
    played(stream, start)
    again = Slots(Job(clips.clips, settings, 3, True), start=stream.places(), form=clips.form)
    assert played(again, 20 - start) == whole[start:]


def test_snippets_have_the_labels_of_their_frames(root: Path) -> None:
    rows = "".join(f"{name},{frame},{frame}\n" for name in ("1.mp4", "2.mkv") for frame in range(FRAMES))
    data: dict[str, Any] = {"window": 2, "snippets": 3, "size": 16}
    clips = found(root, f"path,frame,number\n{rows}", "regress", **data)
    seen = played(Slots(Job(clips.clips, Data(train=root, slots=2, **data), 0, False), form=clips.form), 6)
    assert [tick[0][0] for tick in seen] == [1, 2, 5, 6, 9, 10]


def test_positions_of_mirrored_frames_change_sign(root: Path) -> None:
    rows = "".join(f"{name},{frame},{1 + frame},{frame}\n" for name in ("1.mp4", "2.mkv") for frame in range(FRAMES))
    flipped: dict[str, Any] = {"flip": 0.5, "flip_targets": [0], "size": 16}
    clips = found(root, f"path,frame,x,y\n{rows}", "regress", **flipped)
    form, ticks = clips.form, 8 * FRAMES
    with pytest.raises(ConfigError, match=r"data.flip_targets = \[2\], but there are 2 numbers \(x, y\), counted"):
        found(root, f"path,frame,x,y\n{rows}", "regress", flip_targets=[2])
    stream = Slots(Job(clips.clips, Data(train=root, slots=2, **flipped), 3, True), form=form)
    plain = Slots(Job(clips.clips, Data(train=root, slots=2, size=16), 3, True), form=form)
    batches = Batch((2, 3, 16, 16), form=form), Batch((2, 3, 16, 16), form=form)
    seen = set()
    for _ in range(ticks):
        for slots, batch in zip((stream, plain), batches, strict=True):
            slots.fill(batch)
        ours, theirs = batches
        for row in range(2):
            mirrored = bool(ours.labels[row, 0] < 0)
            seen.add(mirrored)
            frame = theirs.frames[row][..., ::-1] if mirrored else theirs.frames[row]
            assert np.array_equal(ours.frames[row], frame)
            x, y = theirs.labels[row]
            assert ours.labels[row].tolist() == [-x if mirrored else x, y]
    assert seen == {True, False}
    stream.close()
    plain.close()


def played(stream: Slots, ticks: int) -> list[list[list[float]]]:
    batch, seen = Batch((2, 3, 16, 16), form=stream.form), []
    for _ in range(ticks):
        assert stream.fill(batch)
        seen.append(batch.labels.tolist())
    places = stream.places()
    stream.close()
    stream.places = lambda: places  # type: ignore[method-assign]
    return seen
