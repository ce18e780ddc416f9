"""Grey frames played as RGB are kept once, whatever comes after them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.config.settings import Data
from coordinator.video.cache.entry import NoRoom, Store
from coordinator.video.cache.place import place_of

KEY, OTHER, HEIGHT, WIDTH = b"k" * 32, b"o" * 32, 16, 24


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    cache = "memory" if request.param == "memory" else str(tmp_path / "cache")
    place = place_of(Data(train=Path(), cache=cache, cache_size="1 MiB"))
    assert place is not None
    yield place.open()
    place.close()


def frames(count: int, grey: bool, channels: int = 3) -> NDArray[np.uint8]:
    random = np.random.default_rng(count)
    pixels = random.integers(0, 256, (count, 1 if grey else channels, HEIGHT, WIDTH), np.uint8)
    return np.repeat(pixels, channels, 1) if grey else pixels


def kept(store: Store, *parts: NDArray[Any]) -> int:
    """Keep the parts of a clip, compare what is read, and return how many bytes its frames take up."""
    draft = store.begin(KEY, sum(part.nbytes for part in parts))
    assert draft is not None
    for part in parts:
        played = draft.write([list(picture) for picture in part])
        np.testing.assert_array_equal(np.array(played), part)
    draft.commit()
    found = store.load(KEY)
    assert found is not None
    assert found.is_intact(lambda: None)
    found.load(1, 3)
    np.testing.assert_array_equal(found.frames, np.concatenate(parts))
    return len(found._map)


def test_grey_frames_take_up_a_third(store: Store) -> None:
    assert kept(store, frames(3, grey=True), frames(5, grey=True)) == 8 * HEIGHT * WIDTH


@pytest.mark.parametrize("first", [True, False])
def test_a_clip_that_is_grey_only_in_part_is_kept_in_colour(store: Store, first: bool) -> None:
    size = kept(store, frames(3, grey=first), frames(5, grey=not first), frames(2, grey=True))
    assert size == 10 * 3 * HEIGHT * WIDTH


def test_grey_frames_are_played_from_the_channel_that_is_kept(store: Store) -> None:
    draft = store.begin(KEY, 1 << 16)
    assert draft is not None
    (played,) = draft.write([list(picture) for picture in frames(1, grey=True)])
    assert np.shares_memory(played[0], played[2])


def test_one_channel_is_kept_as_it_is(store: Store) -> None:
    assert kept(store, frames(3, grey=False, channels=1), frames(4, grey=False, channels=1)) == 7 * HEIGHT * WIDTH


def test_a_colour_after_grey_frames_for_which_there_is_no_room_is_not_kept(store: Store) -> None:
    coloured = [list(picture) for picture in frames(310, grey=False)]
    draft = store.begin(KEY, 300 * HEIGHT * WIDTH)
    assert draft is not None
    draft.write([list(picture) for picture in frames(300, grey=True)])
    draft.write(coloured)
    with pytest.raises(NoRoom):
        draft.write(coloured)
    draft.discard()
    assert store.load(KEY) is None


def test_of_two_processes_that_decode_a_clip_one_keeps_it() -> None:
    place = place_of(Data(train=Path(), cache="memory", cache_size="1 MiB"))
    assert place is not None
    store = place.open()
    draft = store.begin(KEY, 100)
    assert draft is not None
    other = (
        "import sys; from coordinator.video.cache.memory_store import MemoryStore; "
        f"print(MemoryStore(int(sys.argv[1]), 1 << 20).begin({KEY!r}, 100) is None)"
    )
    command = [sys.executable, "-c", other, str(place.file)]

    def refused() -> bool:
        done = subprocess.run(command, pass_fds=[place.file], capture_output=True, text=True, check=True)
        return done.stdout.strip() == "True"

    assert refused()
    small = store.begin(OTHER, 4000)
    assert small is not None
    small.write([list(picture) for picture in frames(2, grey=True)])
    small.commit()
    del small
    kept = store.load(OTHER)
    assert kept is not None
    del kept  # unmapping closes a descriptor of the file, with which other kinds of locks end
    assert refused()
    draft.discard()
    place.close()
