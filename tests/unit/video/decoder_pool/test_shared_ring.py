"""Shared memory for decoded frames."""

import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoder_pool.shared_ring import HALVES, SharedRing, chunk_of

DATA = Data(train=Path(), slots=3, size=16, flip=0.5)


def test_the_ring_has_room_for_every_slot_and_bounds_its_memory() -> None:
    ring = SharedRing(DATA)
    rooms = [ring.room(slot, half) for slot in range(3) for half in range(HALVES)]
    for number, room in enumerate(rooms):
        room[:] = number + 1
    assert [int(room.max()) for room in rooms] == [int(room.min()) for room in rooms] == list(range(1, 7))
    assert not ring.pixels[ring.black].any()
    other = SharedRing(DATA, os.dup(ring.file))
    assert np.array_equal(other.pixels, ring.pixels)
    ring.close()
    other.close()
    assert chunk_of(DATA) == 64
    assert chunk_of(Data(train=Path(), slots=64, size=112)) == 27
    assert chunk_of(Data(train=Path(), slots=256, size=224)) == 4


def test_too_little_memory_is_an_error_with_a_remedy_and_leaks_nothing() -> None:
    files = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(
            DataError, match=r"MiB of memory for decoded frames cannot be allocated: .*Lower data\.slots"
        ):
            SharedRing(DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir("/proc/self/fd") == files
