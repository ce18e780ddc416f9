"""Reading frames in the requested form."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from coordinator.video.decoder_pool.clip_player import Chunk, ClipPlayer, Job
from coordinator.video.decoding.reader import CHUNK
from coordinator.video.files.clips import find
from tests.support.settings import config_of
from tests.support.videos import frames_of, write_clip


def test_frames_are_read_with_stride_size_and_channels(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 3 * CHUNK + 1)
    every = frames_of(path)
    assert np.array_equal(frames_of(path, stride=3), every[::3])
    assert frames_of(path, short_side=10, channels=1).shape == (3 * CHUNK + 1, 1, 10, 12)


@pytest.mark.parametrize("held", [1, 5 * 24 * 20])
def test_large_frames_are_converted_a_few_at_a_time(videos: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """The limit of decoded frames held at a time does not change the chunks."""
    config = config_of(videos, data__flip=1.0)
    clip = next(clip for clip in find(videos / "train", "*", 1).clips if clip.frames == 40)
    room = np.zeros((16, *config.frame_shape[1:]), np.uint8)

    def played() -> list[tuple[Chunk, bytes]]:
        chunks = ClipPlayer(Job([clip], config.data, 3, train=True), lambda *_: None).chunks(0, 0, lambda: room)
        return [(chunk, room[: chunk.frames].tobytes()) for chunk in islice(chunks, 6)]

    expected = played()
    assert [chunk.frames for chunk, _ in expected] == [16, 16, 8] * 2
    monkeypatch.setattr("coordinator.video.decoding.pictures._HELD", held)
    assert played() == expected
