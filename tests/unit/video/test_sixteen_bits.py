"""Pixels of 16 bits keep their values from the file to the batch that stage 0 gets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config.settings import Data
from coordinator.python.frames import clip_of, pixels
from coordinator.video.batch import Batch
from coordinator.video.cache.frame_cache import FrameCache
from coordinator.video.cache.place import CachePlace, place_of
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.augment import draw
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import collect
from coordinator.video.slots import Slots
from tests.support.depth import write_depth

SETTINGS: dict[str, Any] = {"slots": 1, "size": [32, 48], "channels": 1, "bits": 16}


def played(root: Path, cache: CachePlace | None = None, **changes: Any) -> np.ndarray[Any, Any]:
    """The frames of the only clip."""
    data = Data(train=root, **{**SETTINGS, **changes})
    slots = Slots(Job(collect(data, "train", labelled=False).clips, data, 0, train=False, cache=cache))
    batch, seen = Batch((1, 1, *data.shape), data.pixel_type), []
    while slots.fill(batch):
        seen.append(batch.frames[0, 0].copy())
    slots.close()
    return np.array(seen)


def test_every_value_is_kept(tmp_path: Path) -> None:
    values = write_depth(tmp_path / "a.mkv", 9)
    assert np.array_equal(next(read(tmp_path / "a.mkv", 1, 32, 1, bits=16))[:, 0], values)
    assert np.array_equal(played(tmp_path), values)


def test_a_run_says_that_bits_are_dropped(tmp_path: Path) -> None:
    write_depth(tmp_path / "a.mkv", 2)
    (note,) = collect(Data(train=tmp_path, **{**SETTINGS, "bits": 8}), "train", labelled=False).notes
    assert note.startswith("1 of 1 videos have grey pixels of more than 8 bits")
    assert "set data.channels = 1 and data.bits = 16" in note
    assert not collect(Data(train=tmp_path, **SETTINGS), "train", labelled=False).notes


def test_eight_bits_are_widened_and_narrowed(tmp_path: Path) -> None:
    values = write_depth(tmp_path / "a.mkv", 2)
    narrow = next(read(tmp_path / "a.mkv", 1, 32, 1))
    assert narrow.dtype == np.uint8
    assert np.abs(narrow[:, 0] - values / 257).max() <= 1
    grey = np.arange(0, 256, dtype=np.uint8).repeat(4).reshape(1, 32, 32)
    assert np.array_equal(pixels(grey[..., None], 32, 1, 16)[0, 0], grey[0].astype(np.uint16) * 257)


def test_the_cache_keeps_them(tmp_path: Path) -> None:
    values = write_depth(tmp_path / "videos/a.mkv", 9)
    data = Data(train=tmp_path / "videos", cache="memory", **SETTINGS)
    place = place_of(data)
    assert place is not None
    for _ in range(2):
        assert np.array_equal(played(tmp_path / "videos", place), values)
    kept = FrameCache(place.open(), data, print).find(collect(data, "train", labelled=False).clips[0])
    assert kept is not None
    assert np.array_equal(kept.frames.view(np.uint16)[:, 0], values)
    place.close()


def test_augmentation_computes_with_16_bits(tmp_path: Path) -> None:
    ramp = np.linspace(10_000, 60_000, 40 * 60).astype(np.uint16).reshape(1, 1, 40, 60)
    plain = draw((40, 60), Data(train=tmp_path, **{**SETTINGS, "flip": 1}), np.random.default_rng(0))
    cut = ramp[..., plain.top : plain.top + 32, plain.left : plain.left + 48]
    out = np.empty((1, 1, 32, 48), np.uint16)
    plain.write([[ramp[0, 0]]], out)
    assert np.array_equal(out, cut[..., ::-1])
    bright = Data(train=tmp_path, **{**SETTINGS, "brightness": 0.1, "scale": (0.5, 0.6)})
    choice = draw((40, 60), bright, np.random.default_rng(0))
    found = choice(ramp)
    assert found.dtype == np.uint16
    assert found.shape == (1, 1, 32, 48)
    middle = ramp[0, 0, choice.top + choice.height // 2, choice.left + choice.width // 2]
    assert found[0, 0, 16, 24] == pytest.approx(min(65535, choice.brightness * middle), rel=0.05)
    assert len(np.unique(found % 256)) > 100, "the lower 8 bits are in use"


def test_arrays_of_16_bits_are_frames(tmp_path: Path) -> None:
    values = write_depth(tmp_path / "a.mkv", 2)
    assert np.array_equal(pixels(values[..., None], 32, 1, 16)[:, 0], values)
    assert clip_of(torch.from_numpy(values[0])).shape == (1, 32, 48, 1)
