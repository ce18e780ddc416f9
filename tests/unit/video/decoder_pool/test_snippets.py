"""Several windows of a clip in one playing: one of each part, and exact when resumed."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.run_file import parse
from common.config.settings import Data
from common.errors import ConfigError
from coordinator.video.cache.place import place_of
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.decoder_pool.snippets import after, snippets
from coordinator.video.files.clips import Clip
from tests.support.videos import write_clip


def test_each_part_gives_its_middle_window_in_evaluation() -> None:
    assert snippets(30, 4, 3, None) == [(3, 4), (13, 4), (23, 4)]
    assert snippets(7, 4, 3, None) == [(0, 2), (2, 2), (4, 3)]
    assert snippets(2, 1, 3, None) == [(0, 1), (1, 1)]
    assert snippets(0, 4, 3, None) == [(0, None)]


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9), st.integers(0, 400))
def test_windows_are_within_their_parts(frames: int, window: int, count: int, done: int) -> None:
    spans = snippets(frames, window, count, np.random.default_rng(frames))
    for first, length in spans:
        part = min(number for number in range(count) if (number + 1) * frames // count > first)
        assert length
        assert first + length <= (part + 1) * frames // count
    played = [frame for first, length in spans if length for frame in range(first, first + length)]
    rest = [frame for first, length in after(spans, done) if length for frame in range(first, first + length)]
    assert rest == played[done:]
    assert played == sorted(set(played))


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_playing_goes_through_the_windows_and_resumes_within_one(tmp_path: Path, cache: str | None) -> None:
    clips = [Clip(write_clip(tmp_path / f"{n}.mkv", n, (16, 16), seed=n, codec="ffv1"), 0, n) for n in (21, 30)]
    data = Data(train=tmp_path, slots=1, size=16, window=3, snippets=4, cache=cache)
    place = place_of(data)

    def play(entry: int, done: int, count: int, train: bool = True) -> list[Any]:
        room = np.zeros((5, 3, 16, 16), np.uint8)
        player = ClipPlayer(Job(clips, data, 0, train, cache=place), lambda *error: pytest.fail(str(error)))
        chunks = islice(player.chunks(entry, done, lambda: room), count)
        return [(chunk.clip, chunk.before + n, room[n].tobytes()) for chunk in chunks for n in range(chunk.frames)]

    whole = play(0, 0, 6)
    assert [frame[:2] for frame in whole] == [(clip, number) for clip in (0, 1) for number in range(12)]
    for done in (1, 3, 7, 11):
        assert play(0, done, 9)[: 12 - done] == whole[done:12]
    assert play(0, 0, 3)[:12] != play(2, 0, 3)[:12]
    middle = [(clip, snippets(clip.frames, 3, 4, None)) for clip in clips]
    expected = [raw(clip)[first + n] for clip, spans in middle for first, _ in spans for n in range(3)]
    assert [frame[2] for frame in play(0, 0, 6, train=False)] == expected
    if place is not None:
        place.close()


def raw(clip: Clip) -> list[bytes]:
    """All frames of a clip."""
    data, room = Data(train=clip.path, slots=1, size=16), np.zeros((64, 3, 16, 16), np.uint8)
    (chunk,) = ClipPlayer(Job([clip], data, 0, train=False), lambda *error: None).chunks(0, 0, lambda: room)
    return [room[number].tobytes() for number in range(chunk.frames)]


def test_snippets_need_a_window() -> None:
    with pytest.raises(ConfigError, match=r"data.snippets needs data.window"):
        parse({"ticks": 1, "data": {"train": "x", "snippets": 3}}, "test")
