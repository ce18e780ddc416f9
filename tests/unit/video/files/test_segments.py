"""Segments of videos: a segment plays exactly the frames that it names, at any stride and rate, and is resumed."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.tools.check_data import check
from coordinator.video.cache.key import key_of
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip, Clips, collect
from coordinator.video.files.dataset_formats import guess
from tests.support.settings import config_of
from tests.support.videos import write_moving

FRAMES = 400  # more than are decoded only to be skipped, so that they are jumped over


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 400 frames, of 25 a second."""
    folder = tmp_path_factory.mktemp("films")
    write_moving(folder / "film.mp4", FRAMES, size=(48, 32), g="20")
    return folder


def listed(folder: Path, text: str, **changes: Any) -> Clips:
    (folder / "list.txt").write_text(text)
    return collect(data_of(folder, **changes), "train")


def data_of(folder: Path, **changes: Any) -> Data:
    return Data(**{"train": folder / "list.txt", "slots": 1, "size": 16, "resize": 32, "threads": 1, **changes})


def frames(clip: Clip, data: Data, **part: Any) -> np.ndarray:
    return np.array([scaler(frame) for scaler, frame in decode_clip(clip, data, **part)])


def test_a_segment_plays_the_frames_that_it_names(films: Path) -> None:
    everything = frames(Clip(films / "film.mp4", 0, FRAMES), data_of(films))
    for unit, text in (
        ("seconds", "film.mp4 0:12.4 13.6 a\nfilm.mp4 1 2 b"),
        ("frames", "film.mp4 310 340 a\nfilm.mp4 25 50 b"),
    ):
        for stride in (1, 4):
            clips = listed(films, text, segment_unit=unit, stride=stride)
            data = data_of(films, stride=stride)
            for clip, (first, end) in zip(clips.clips, ((310, 340), (25, 50)), strict=True):
                expected = everything[first:end:stride]
                assert clip.frames == len(expected)
                assert np.array_equal(frames(clip, data), expected), (unit, stride)
                assert np.array_equal(frames(clip, data, skip=3, limit=2), expected[3:5])
                assert np.array_equal(frames(clip, data, skip=3, limit=99), expected[3:])
                assert not len(frames(clip, data, skip=50))


def test_at_a_fixed_rate_a_segment_has_the_instants_that_it_names(films: Path) -> None:
    whole = frames(Clip(films / "film.mp4", 0, FRAMES), data_of(films, fps=10.0))
    for text, unit in (("film.mp4 12.4 13.6 a", "seconds"), ("film.mp4 310 340 a", "frames")):
        (clip,) = listed(films, text, fps=10.0, segment_unit=unit).clips
        assert (clip.first, clip.frames) == (124, 12)
        assert np.array_equal(frames(clip, data_of(films, fps=10.0)), whole[124:136])


def test_segments_are_played_and_resumed_as_clips_are(films: Path) -> None:
    clips = listed(films, "film.mp4 1 2 a\nfilm.mp4 12 13.2 b\nfilm.mp4 3 3.2 a").clips
    data = data_of(films, window=7, flip=0.5)

    def play(entry: int, done: int, count: int) -> list[Any]:
        room = np.zeros((5, 3, 16, 16), np.uint8)
        player = ClipPlayer(Job(clips, data, 0, train=True), lambda *error: pytest.fail(str(error)))
        chunks = islice(player.chunks(entry, done, lambda: room), count)
        return [(*chunk, room[: chunk.frames].tobytes()) for chunk in chunks]

    whole = play(0, 0, 10)
    place = whole[6][0], whole[6][2]
    assert play(*place, 4) == whole[6:]
    assert sum(chunk[3] for chunk in whole) == sum(min(7, frames) for frames in (25, 30, 5)) * 2
    assert len({key_of(clip, data) for clip in clips}) == 3


def test_the_format_is_detected_and_labels_are_optional(films: Path) -> None:
    lines = {"film.mp4 1 2 a": "segments", "film.mp4 1 2": "segments", "gone.mp4 1 2 a": "segments"}
    for text, kind in {**lines, "gone.mp4 1 2": "list", "film.mp4 1": "list"}.items():
        (films / "list.txt").write_text(text)
        assert guess(films / "list.txt") == kind
    (films / "with space.mp4").symlink_to(films / "film.mp4")
    (films / "list.txt").write_text("film.mp4 1 2\nwith space.mp4 2 3\nfilm.mp4 3 4 a\n")
    clips = collect(data_of(films), "train", labelled=False)
    assert [clip.first for clip in clips.clips] == [25, 50, 75]


def test_segments_beyond_the_end_are_cut_or_left_out_with_a_note(films: Path) -> None:
    clips = listed(films, "film.mp4 15 99 a\nfilm.mp4 16.5 17 a\nmissing.mp4 1 2 b\nfilm.mp4 0 1 b")
    assert [(clip.first, clip.frames) for clip in clips.clips] == [(375, 25), (0, 25)]
    assert clips.notes == [f"{films / 'film.mp4'}: the segment from 16.5 to 17 s is after its end, at 16 s: left out"]
    assert list(clips.bad) == [films / "missing.mp4"]
    config = config_of(films, data__train=str(films / "list.txt"))
    (survey,) = check(config)
    assert [finding.frames for finding in survey.findings] == [25, 25]


@pytest.mark.parametrize(
    ("line", "unit", "message"),
    [
        ("film.mp4 3 2 a", "seconds", "line 2: the segment from 3 to 2 is empty"),
        ("film.mp4 2 2 a", "frames", "line 2: the segment from 2 to 2 is empty"),
        ("film.mp4 1.5 2 a", "frames", "'1.5' is not a number of frames"),
        ("film.mp4 1 2", "seconds", "'film.mp4 1 2' is not `path start end label`"),
        ("my film.mp4 1 5", "seconds", "'film.mp4' is not seconds, such as"),
        ("film.mp4 1 two a", "seconds", "'two' is not seconds, such as"),
        ("film.mp4 1 2 -1", "seconds", "-1 is not a label"),
        ("../film.mp4 1 2 a", "seconds", "is outside of"),
    ],
)
def test_a_wrong_line_is_an_error_that_names_it(films: Path, line: str, unit: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        listed(films, f"film.mp4 1 2 a\n{line}\n", segment_unit=unit)
