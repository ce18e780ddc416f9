"""Labels and segments of films of variable frame rate: they hit the frames that are shown at the times they name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data
from coordinator.video.decoding.reader import read
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clips, collect
from coordinator.video.files.labels import FrameLabels
from tests.support.sampling import write_levels
from tests.support.shards import write_shards
from tests.support.videos import write_clip

TIMES = [*range(0, 80, 4), *range(80, 280, 10), *range(280, 300, 4)]  # hundredths: 25 a second, 10, and 25 again


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 1.mp4, an MP4 or Matroska file whose frames are shown at TIMES."""
    folder = tmp_path_factory.mktemp("uneven")
    write_levels(folder / f"1.{request.param}", TIMES, rate=25).rename(folder / "1.mp4")
    return folder


def labelled(root: Path, table: str, **data: Any) -> Clips:
    (root / "labels.csv").write_text(table)
    return collect(Data(train=root, train_labels=root / "labels.csv", labels_of="frames", slots=1, **data), "train")


def labels_in(clips: Clips) -> list[int]:
    (clip,) = clips.clips
    assert isinstance(clip.label, FrameLabels)
    return clip.label.at(np.arange(clip.frames)).tolist()  # of more frames than there are if the file states no number


def levels_of(chunks: Any) -> list[int]:
    return [round((float(level) - 40) / 3) for chunk in chunks for level in chunk.mean((1, 2, 3))]


def test_seconds_of_labels(root: Path) -> None:
    labels = labels_in(labelled(root, "path,start_seconds,end_seconds,label\n1.mp4,0.8,2.8,walk\n1.mp4,2.8,3,run\n"))
    assert labels[: len(TIMES)] == [1 if 80 <= time < 280 else 0 if time >= 280 else -1 for time in TIMES]


@pytest.mark.parametrize("fps", [5.0, 25.0, 30.0])
def test_labels_at_a_fixed_rate_are_those_of_the_frames_played(root: Path, fps: float) -> None:
    rows = "".join(f"1.mp4,{number},{number:02}\n" for number in range(len(TIMES)))
    clips = labelled(root, f"path,frame,label\n{rows}", fps=fps)
    played = levels_of(read(root / "1.mp4", 1, 16, 1, fps=fps))
    assert labels_in(clips)[: len(played)] == played
    assert len(played) >= 0.95 * 3 * fps


@pytest.mark.parametrize("fps", [None, 10.0])
@pytest.mark.parametrize(("unit", "line"), [("seconds", "1.mp4 0.8 2.8 a"), ("frames", "1.mp4 20 40 a")])
def test_segments(root: Path, unit: str, line: str, fps: float | None) -> None:
    (root / "list.txt").write_text(line)
    data = Data(train=root / "list.txt", slots=1, size=16, resize=16, channels=1, segment_unit=unit, fps=fps)
    (clip,) = collect(data, "train").clips
    levels = levels_of([np.array([scaler(frame)]) for scaler, frame in decode_clip(clip, data)])
    assert levels == list(range(20, 40))  # 10 a second, as shown


def test_a_film_in_a_shard(root: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "even.mp4", 12)
    (shard,) = write_shards(tmp_path, [(tmp_path / "even.mp4", 0), (root / "1.mp4", 1)], 2)
    table = tmp_path / "labels.csv"
    data = Data(train=shard, train_labels=table, labels_of="frames", slots=1)
    even, uneven = (f"{clip.path}" for clip in collect(Data(train=shard, slots=1), "train").clips)
    table.write_text(f"path,start_seconds,end_seconds,label\n{even},0,0.2,a\n{uneven},0.8,2.8,b\n")
    clips = collect(data, "train").clips
    labels = [clip.label.at(np.arange(clip.frames)) for clip in clips if isinstance(clip.label, FrameLabels)]
    assert labels[0].tolist() == [0] * 5 + [-1] * 7
    assert labels[1][: len(TIMES)].tolist() == [1 if 80 <= time < 280 else -1 for time in TIMES]


def test_a_film_of_many_segments_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> list[float]:
        read.append(path)
        return [time / 100 for time in TIMES]

    monkeypatch.setattr("coordinator.video.files.timelines.read_frame_times", counted)
    (root / "list.txt").write_text("1.mp4 0.8 1.8 a\n1.mp4 1.8 2.8 b\n")
    clips = collect(Data(train=root / "list.txt", slots=1, segment_unit="seconds"), "train").clips
    assert [(clip.first, clip.frames) for clip in clips] == [(20, 10), (30, 10)]
    assert len(read) == 1
