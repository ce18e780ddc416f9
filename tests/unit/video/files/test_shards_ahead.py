"""Shards are downloaded before they are needed, in order, and no further ahead than a few clips."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clip, collect
from coordinator.video.files.play_order import ShuffledOrder
from coordinator.video.files.shard_source import Shard
from coordinator.video.files.shards import Member
from coordinator.video.files.shards_ahead import ShardsAhead
from coordinator.video.slots import Slots
from tests.support.shards import served, write_shards
from tests.support.videos import write_clip
from tests.support.waiting import wait_until

DATA = Data(train=Path(), slots=2)


def clips_of(count: int) -> list[Clip]:
    """One in each remote shard."""
    shards = [Shard(f"s3://x/{number}.tar", 9, "") for number in range(count)]
    return [Clip(Path(shard.address, "a.mp4"), 0, 5, member=Member(shard, 0, 9)) for shard in shards]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses downloaded; that of 2.tar fails."""
    found: list[str] = []

    @contextmanager
    def opened(shard: Shard, data: Data, alive: Any) -> Iterator[int]:
        found.append(shard.address)
        if shard.address.endswith("/2.tar"):
            raise DataError("it is gone")
        yield 0

    monkeypatch.setattr("coordinator.video.files.shards_ahead.opened_shard", opened)
    return found


def test_it_stays_a_few_clips_ahead_of_the_slots(fetched: list[str]) -> None:
    clips, played = clips_of(40), [1]
    ahead = ShardsAhead(clips, DATA, ShuffledOrder(clips, 0, endless=False), 0, lambda: played[0])
    wait_until(lambda: len(fetched) == 10, 5)
    threading.Event().wait(0.5)
    assert fetched == [f"s3://x/{number}.tar" for number in range(10)], "in order, also after the one that failed"
    played[0] = 5
    wait_until(lambda: len(fetched) == 14, 5)
    ahead.close()
    assert len(fetched) == 14


def test_it_ends_with_the_clips(fetched: list[str]) -> None:
    clips = clips_of(3)
    ahead = ShardsAhead(clips, DATA, ShuffledOrder(clips, 0, endless=False), 0, lambda: 2)
    wait_until(lambda: len(fetched) == 3, 5)
    ahead.close()


def test_closing_gives_up_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    @contextmanager
    def opened(shard: Shard, data: Data, alive: Any) -> Iterator[int]:
        begun.set()
        while True:
            alive()
            threading.Event().wait(0.01)
        yield 0

    monkeypatch.setattr("coordinator.video.files.shards_ahead.opened_shard", opened)
    clips = clips_of(3)
    ahead = ShardsAhead(clips, DATA, ShuffledOrder(clips, 0, endless=False), 0, lambda: 0)
    assert begun.wait(5)
    ahead.close()


def test_slots_play_before_all_shards_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of shards that come one at a time; what is played is what local shards give."""
    monkeypatch.setattr("coordinator.video.files.shards._SMALL", 0)
    files = [(write_clip(tmp_path / f"{n}.mp4", 8, seed=n), 0) for n in range(24)]
    write_shards(tmp_path / "shards", files, 1)
    settings: dict[str, Any] = {"slots": 2, "size": 16, "threads": 1, "shard_cache": tmp_path / "cache"}
    expected = played(Data(train=tmp_path / "shards", **settings), 30)
    with served(tmp_path / "shards", parts=True) as (address, asked):
        data = Data(train=f"{address}/{{000..023}}.tar", **settings)
        clips = collect(data, "train").clips
        assert not [path for path in asked if not path.endswith(" in part")]
        slots, batch = Slots(Job(clips, data, 0, train=True)), Batch((2, 3, 16, 16))
        assert slots.fill(batch)
        whole = [path for path in asked if not path.endswith(" in part")]
        assert len(set(whole)) < len(files)
        slots.close()
        assert played(data, 30) == expected


def played(data: Data, ticks: int) -> list[bytes]:
    slots, batch, seen = Slots(Job(collect(data, "train").clips, data, 0, train=True)), Batch((2, 3, 16, 16)), []
    for _ in range(ticks):
        slots.fill(batch)
        seen.append(batch.frames.tobytes())
    slots.close()
    return seen
