"""Downloads remote shards before their clips are played, in the order in which they will be.

A run starts as soon as the shards of its first clips are there. Decoders that need a shard which is still being
downloaded wait for it, and download one themselves that nobody has begun.

consumes   the play order, and how far the slots are
produces   copies of shards (shard_cache.py)
waits for  the slots, once it is so many clips ahead that more might push out what they still need
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.files.clips import Clip
from coordinator.video.files.play_order import PlayOrder
from coordinator.video.files.shard_cache import opened_shard
from coordinator.video.files.shard_source import Shard

_CLIPS = 4  # of each slot, ahead of what is played
_POLL = 0.2  # seconds
_EXIT_TIMEOUT = 2.0  # seconds that `close` waits for a server


class ShardsAhead:
    """A thread that downloads shards for a stream, until it is closed or has all of them."""

    def __init__(self, clips: list[Clip], data: Data, order: PlayOrder, first: int, played: Callable[[], int]) -> None:
        """Start.

        Args:
            first: number of the entry to begin with.
            played: returns that of the newest entry that a slot plays.
        """
        self._data, self._order, self._first, self._played = data, order, first, played
        self._shards = {clip.member.shard for clip in clips if clip.member is not None and clip.member.shard.remote}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shards ahead", daemon=True)
        if self._shards:
            self._thread.start()

    def close(self) -> None:
        """Stop; a download that is going on is given up."""
        self._closed.set()
        if self._shards:
            self._thread.join(_EXIT_TIMEOUT)

    def _run(self) -> None:
        number, latest = self._first, None
        with suppress(_Closed):
            while (clip := self._order.entry(number)) is not None:
                while number > self._played() + _CLIPS * self._data.slots:
                    self._alive()
                    self._closed.wait(_POLL)
                if clip.member is not None and clip.member.shard.remote and clip.member.shard != latest:
                    latest = clip.member.shard
                    self._fetch(latest)
                number += 1

    def _fetch(self, shard: Shard) -> None:
        with (
            suppress(DataError),
            opened_shard(shard, self._data, self._alive),
        ):  # the decoder that plays the clip reports it
            pass

    def _alive(self) -> None:
        if self._closed.is_set():
            raise _Closed


class _Closed(Exception):
    """The stream has ended."""
