"""Places: a stream continues where another one ended."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clips import Clip, collect
from coordinator.video.files.play_order import ShuffledOrder
from coordinator.video.slots import Slots
from tests.support.sampling import CHUNK, played, write_levels
from tests.support.videos import write_clip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Clips of 1, 16, 17, 32 and 40 frames, an unreadable one, and one with fewer frames than its container says."""
    root = tmp_path_factory.mktemp("mixed")
    clips = [
        Clip(write_levels(root / f"{length}.mp4", list(range(length))), length % 3, length)
        for length in (1, CHUNK, CHUNK + 1, 2 * CHUNK, 40)
    ]
    (root / "bad.mp4").write_bytes(b"nothing")
    broken = write_clip(root / "broken.avi", 120, size=(64, 48), codec="mpeg4")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    return [*clips, Clip(root / "bad.mp4", 0, 9), Clip(broken, 1, 120)]


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 11, "flip": 0.5},
    "stride": {"stride": 3, "scale": (0.3, 1.0)},
    "rate": {"fps": 60.0},
}


@pytest.mark.long
@given(st.sampled_from(sorted(WAYS)), st.integers(0, 150), st.integers(1, 3), st.integers(0, 20))
@hypothesis_settings(max_examples=6)
def test_a_stream_continues_from_anothers_places(mixed: list[Clip], way: str, stop: int, slots: int, seed: int) -> None:
    """Frames, ids and labels are equal, also after continuing a second time."""
    data = Data(train=Path(), slots=slots, size=16, threads=1, **WAYS[way])
    whole = Recorder(mixed, data, seed, None)
    expected = whole.take(stop + 80)
    first = Recorder(mixed, data, seed, None)
    first.take(stop)
    second = Recorder(mixed, data, seed, first.end())
    assert second.take(30) == expected[stop : stop + 30]
    third = Recorder(mixed, data, seed, second.end())
    assert third.take(50) == expected[stop + 30 :]
    third.end()
    whole.end()


class Recorder:
    """A stream's ticks as bytes."""

    def __init__(self, clips: list[Clip], data: Data, seed: int, start: list[tuple[int, int]] | None) -> None:
        self._slots = Slots(Job(clips, data, seed, train=True), start=start)
        self._batch = Batch((data.slots, data.channels, *data.shape))

    def take(self, ticks: int) -> list[bytes]:
        seen = []
        for _ in range(ticks):
            assert self._slots.fill(self._batch)
            batch = self._batch
            seen.append(b"".join(array.tobytes() for array in (batch.frames, batch.clips, batch.labels)))
        return seen

    def end(self) -> list[tuple[int, int]]:
        self._slots.close()
        return self._slots.places()


def test_places_count_only_frames_that_were_handed_out(mixed: list[Clip]) -> None:
    data = Data(train=Path(), slots=2, size=16)
    slots, batch = Slots(Job(mixed[1:3], data, 0, train=True)), Batch((2, 3, 16, 16))
    assert slots.places() == [(0, 0), (1, 0)]
    lengths = [clip.frames for number in (0, 1) if (clip := ShuffledOrder(mixed[1:3], 0, True).entry(number))]
    for tick in range(1, CHUNK + 1):
        slots.fill(batch)
        assert slots.places() == [(0, tick), (1, tick)]
    slots.fill(batch)
    assert sorted(slots.places()) == sorted((n, CHUNK + 1) if lengths[n] == CHUNK + 1 else (n + 2, 1) for n in (0, 1))
    slots.close()


def test_the_millionth_entry_is_found_without_shuffling_all_epochs(
    mixed: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled: list[int] = []
    original = ShuffledOrder._shuffle

    def noted(self: ShuffledOrder, epoch: int) -> object:
        shuffled.append(epoch)
        return original(self, epoch)

    monkeypatch.setattr(ShuffledOrder, "_shuffle", noted)
    data = Data(train=Path(), slots=2, size=16)
    room = np.zeros((CHUNK, 3, 16, 16), np.uint8)
    for slot in range(2):
        chunks = ClipPlayer(Job(mixed[:5], data, 0, train=True), lambda *_: None).chunks(
            1_000_000 + slot, 0, lambda: room
        )
        assert [next(chunks).clip for _ in range(3)]
    assert set(shuffled) <= set(range(200_000, 200_030))
    assert len(shuffled) < 30


def test_a_finished_evaluation_stays_finished(mixed: list[Clip]) -> None:
    data, batch = Data(train=Path(), slots=2, size=16), Batch((2, 3, 16, 16))
    slots = Slots(Job(mixed[:2], data, 0, train=False))
    while slots.fill(batch):
        pass
    slots.close()
    again = Slots(Job(mixed[:2], data, 0, train=False), start=slots.places())
    assert not again.fill(batch)
    again.close()
    assert slots.places() == [(0, 1), (1, CHUNK)]


def test_a_long_file_is_played_in_a_loop(tmp_path: Path) -> None:
    file = write_levels(tmp_path / "x.mp4", list(range(30)))
    data = Data(sources=[str(file)], loop=True, slots=3, size=16, channels=1)
    clips = collect(data, "train", labelled=False)
    assert clips.frames == 30
    frames, ids, _ = played(clips.clips, data, 50)
    numbers = [[round((float(row.mean()) - 40) / 3) for row in frame] for frame in frames]
    assert [list(column) for column in zip(*numbers, strict=True)] == [
        [(tick + start) % 30 for tick in range(50)] for start in (0, 10, 20)
    ]
    assert [list(dict.fromkeys(column)) for column in zip(*ids, strict=True)] == [[0, 3], [1, 4], [2, 5, 8]]
    first = Recorder(clips.clips, data, 5, None)
    expected = first.take(40)
    start = Recorder(clips.clips, data, 5, None)
    start.take(17)
    rest = Recorder(clips.clips, data, 5, start.end())
    assert rest.take(23) == expected[17:]
    rest.end()
    first.end()


def test_an_unreadable_file_to_loop_is_an_error() -> None:
    with pytest.raises(DataError, match=r"gone\.mp4 cannot be read"):
        collect(Data(sources=["gone.mp4"], loop=True), "train", labelled=False)
