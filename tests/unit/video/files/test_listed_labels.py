"""Labels of frames with segments, shards and datasets of one's own; and lists as labels of whole clips."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data, TaskName
from common.errors import DataError
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clips, collect
from coordinator.video.files.labels import FrameLabels
from coordinator.video.files.listed_labels import text_of
from coordinator.video.slots import Slots
from tests.support.shards import add
from tests.support.videos import write_clip

FRAMES = 12


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("listed") / "1.mp4", FRAMES)


def settings(train: Path | str, **changes: Any) -> Data:
    return Data(**{"train": train, "labels_of": "frames", "slots": 1, "size": 16, **changes})


def labels_in(clips: Clips, number: int = 0) -> Any:
    label = clips.clips[number].label
    assert isinstance(label, FrameLabels)
    return label.at(np.arange(clips.clips[number].frames)).tolist()


def shard(folder: Path, video: Path, *labels: Any) -> Path:
    """A shard in which the same video has these labels."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, label in enumerate(labels):
            tar.add(video, f"{number}.mp4")
            add(tar, f"{number}.json", json.dumps({"label": label}).encode())
    return folder / "a.tar"


def own(folder: Path, *labels: str, more: str = "") -> str:
    """A dataset of arrays of four frames with these labels."""
    items = ", ".join(f"(np.zeros((4, 20, 24, 3), np.uint8), {label})" for label in labels)
    (folder / "mine.py").write_text(
        f"import numpy as np\nclass Clips(list):\n    {more or 'pass'}\ndef clips(): return Clips([{items}])\n"
    )
    return f"{folder / 'mine.py'}:clips"


@pytest.mark.parametrize(
    "part",
    [
        {"stride": 1, "segment_unit": "frames"},
        {"stride": 3, "segment_unit": "frames"},
        {"fps": 12.5},
    ],
)
def test_frames_of_a_segment_have_the_labels_of_the_films_frames(
    video: Path, tmp_path: Path, part: dict[str, Any]
) -> None:
    (tmp_path / "labels.csv").write_text(
        "path,frame,number\n" + "".join(f"1.mp4,{frame},{frame}\n" for frame in range(FRAMES))
    )
    bounds = "4 11" if "segment_unit" in part else "0.16 0.44"
    (tmp_path / "list.txt").write_text(f"1.mp4 {bounds}\n")
    data = settings(tmp_path / "list.txt", videos=video.parent, train_labels=tmp_path / "labels.csv", **part)
    clips = collect(data.model_copy(update={"format": "segments"}), "train", task="regress")
    step = 2 if "fps" in part else part["stride"]
    assert labels_in(clips) == [[float(frame)] for frame in range(4, 11, step)]
    slots, batch = (
        Slots(Job(clips.clips, data, 0, train=False), form=clips.form),
        Batch((1, 3, 16, 16), form=clips.form),
    )
    played = []
    while slots.fill(batch):
        played.append(batch.labels[0].tolist())
    slots.close()
    assert played == labels_in(clips)


def test_a_shards_json_labels_every_frame(video: Path, tmp_path: Path) -> None:
    runs = ["run"] * 5 + [None] + ["jump"] * 6
    clips = collect(settings(shard(tmp_path, video, runs, ["jump"] * 12)), "train")
    assert clips.classes == ["jump", "run"]
    assert labels_in(clips) == [1] * 5 + [-1] + [0] * 6
    assert labels_in(clips, 1) == [0] * 12
    numbers = [None] + [[frame, frame / 2] for frame in range(11)]
    clips = collect(settings(shard(tmp_path, video, numbers), stride=5), "train", task="regress")
    assert labels_in(clips)[1:] == [[4.0, 2.0], [9.0, 4.5]]
    assert np.isnan(labels_in(clips)[0]).all()
    several = [["run", "jump"], [], None] + [["run"]] * 9
    clips = collect(settings(shard(tmp_path, video, several)), "train", task="multilabel")
    assert clips.classes == ["jump", "run"]
    assert labels_in(clips)[:2] == [[1, 1], [0, 0]]
    assert np.isnan(labels_in(clips)[2]).all()


def test_a_table_labels_the_frames_of_shards_too(video: Path, tmp_path: Path) -> None:
    tar = shard(tmp_path, video, "any")
    (tmp_path / "labels.csv").write_text(f"path,start,end,label\n{tar}/0.mp4,0,12,run\n")
    data = settings(tar, train_labels=tmp_path / "labels.csv")
    assert labels_in(collect(data, "train")) == [0] * 12
    (tmp_path / "labels.csv").write_text(f"path,start,end,label\n{tar}/0.mp4,0,13,run\n")
    with pytest.raises(DataError, match=r"frame 12, but .*0\.mp4 has the frames 0 … 11"):
        collect(data, "train")


@pytest.mark.parametrize("more", ["", "classes = ['walk', 'run']", "classes, frames = ['walk', 'run'], [4]"])
def test_an_item_of_a_dataset_may_have_a_label_for_every_frame(tmp_path: Path, more: str) -> None:
    if "frames" in more:
        more += "; labels = [[1, 1, -1, 0]]"
    clips = collect(settings(own(tmp_path, "np.array([1, 1, -1, 0])", more=more)), "train")
    assert clips.classes == (["walk", "run"] if more else ["0", "1"])
    assert labels_in(clips) == [1, 1, -1, 0]


def test_numbers_of_every_frame_may_be_an_array(tmp_path: Path) -> None:
    clips = collect(settings(own(tmp_path, "np.arange(8).reshape(4, 2) / 2")), "train", task="regress")
    assert clips.classes == ["0", "1"]
    assert labels_in(clips) == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        ("classify", "[0, 1, 1]", r"clips\[0\]: 3 labels of frames, but it has 4 frames: give every frame one"),
        ("classify", "[0] * 5", "5 labels of frames, but it has 4 frames"),
        ("classify", "3", 'its label is 3, but data.labels_of = "frames" needs a list with a label for every'),
        ("classify", "[0, 1, 0.5, 1]", r"clips\[0\], frame 2: its label is 0\.5, but must be the number or the name"),
        ("regress", "[0.0, float('nan'), 1, 2]", r"clips\[0\], frame 1: 0 is nan, which is no number to learn"),
        ("regress", "[[0, 1], [0], [1, 1], [1, 1]]", r"frame 1: 1 of 2 values"),
    ],
)
def test_a_wrong_label_of_a_frame_is_named(tmp_path: Path, task: TaskName, label: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collect(settings(own(tmp_path, label)), "train", task=task)


def test_a_class_beyond_the_stated_ones_is_named(tmp_path: Path) -> None:
    source = own(tmp_path, "[0, 1, 2, 0]", more="classes = ['walk', 'run']")
    with pytest.raises(DataError, match="frame 2: its label is 2, but there are 2 classes"):
        collect(settings(source), "train")


def test_a_shards_json_may_list_classes_or_numbers_of_a_clip(video: Path, tmp_path: Path) -> None:
    clips = collect(settings(shard(tmp_path, video, [0.5, 2], [1, 3]), labels_of="clips"), "train", task="regress")
    assert [clip.label for clip in clips.clips] == [(0.5, 2.0), (1.0, 3.0)]
    data = settings(shard(tmp_path, video, ["run", "sit"], []), labels_of="clips")
    assert [clip.label for clip in collect(data, "train", task="multilabel").clips] == [(1.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize("name", ["wash, dry", "run;jump", "a|b", " run"])
def test_a_name_that_lists_would_divide_is_refused(name: str) -> None:
    assert text_of(["run", "jump up"], "clip 3") == "run,jump up"
    with pytest.raises(DataError, match=r"clip 3: the name of the class .* which divide names: rename it"):
        text_of(["run", name], "clip 3")
