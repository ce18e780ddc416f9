"""Shared memory for decoded frames."""

import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoder_pool.shared_ring import SharedRing, chunk_of

DATA = Data(train=Path(), slots=3, size=16, flip=0.5)


def test_the_ring_has_room_for_every_slot_and_bounds_its_memory() -> None:
    ring = SharedRing(DATA, in_use=9)
    rooms = [ring.room(slot, tick, ring.ticks) for tick in range(0, ring.ticks, ring.chunk) for slot in range(3)]
    for number, room in enumerate(rooms):
        room[:] = number + 1
    assert [int(room.max()) for room in rooms] == [int(room.min()) for room in rooms] == list(range(1, 10))
    assert ring.pixels.all()
    other = SharedRing(DATA, 9, os.dup(ring.file))
    assert np.array_equal(other.pixels, ring.pixels)
    ring.close()
    other.close()
    assert chunk_of(DATA, 9) == 64
    assert chunk_of(Data(train=Path(), slots=64, size=112), 9) == 21
    assert chunk_of(Data(train=Path(), slots=256, size=224), 9) == 4


@given(st.integers(1, 80), st.integers(0, 2000), st.sampled_from([(3, 16), (64, 112), (256, 224)]))
def test_batches_in_use_are_not_overwritten_and_the_next_one_is_never_waited_for_in_vain(
    in_use: int, tick: int, shape: tuple[int, int]
) -> None:
    data = Data(train=Path(), slots=shape[0], size=shape[1])
    ring = SharedRing(data, in_use)
    end = ring.decodable_until(tick)
    assert end > tick
    assert end - ring.ticks <= max(0, tick - in_use)
    for start in (tick, end - 1):  # a room reaches neither beyond the end of the ring nor beyond `end`
        place = start % ring.ticks
        assert len(ring.room(0, start, end)) == min(ring.chunk, end - start, ring.ticks - place)
    ring.close()


def test_too_little_memory_is_an_error_with_a_remedy_and_leaks_nothing() -> None:
    files = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(
            DataError, match=r"MiB of memory for decoded frames cannot be allocated: .*Lower data\.slots"
        ):
            SharedRing(DATA, 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir("/proc/self/fd") == files
