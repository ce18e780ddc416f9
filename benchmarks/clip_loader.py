"""Slots fed by torch.utils.data.DataLoader, one clip a task: what benchmarks/stream.py compares the decoding pool with.

A worker decodes a whole clip, as the product's own player does, into one tensor, which goes to the main process in
shared memory. There each slot plays its clip frame by frame, and takes the next one when it ends.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.config.settings import Data
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clips import Clip

_CHUNK = 64  # frames that are decoded at a time
_ENDLESS = 1 << 40  # entries


class ClipDataset(Dataset[tuple[int, Tensor]]):
    """Entry n is the n-th playing of a clip: its label, and its frames, uint8 [frames, channels, size, size]."""

    def __init__(self, clips: list[Clip], data: Data) -> None:
        self._job = Job(clips, data.model_copy(update={"slots": 1}), 0, train=True)
        self._player = ClipPlayer(self._job, lambda kind, reason: None)

    def __getitem__(self, entry: int) -> tuple[int, Tensor]:
        clip = self._job.order().entry(entry)
        assert clip is not None
        data = self._job.data
        frames = np.empty((clip.frames + 2 * _CHUNK, data.channels, data.size, data.size), np.uint8)
        places = iter(range(0, len(frames), _CHUNK))
        chunks = self._player.chunks(entry, 0, lambda: frames[(place := next(places)) : place + _CHUNK])
        written = sum(chunk.frames for chunk in takewhile(lambda chunk: chunk.clip == entry, chunks))
        return clip.label, torch.from_numpy(frames[:written])


class LoaderSlots:
    """The face of the product's Slots, over a DataLoader."""

    def __init__(self, clips: list[Clip], data: Data) -> None:
        loader: DataLoader[Any] = DataLoader(
            ClipDataset(clips, data),
            batch_size=None,
            sampler=range(_ENDLESS),
            num_workers=2 * data.threads,  # as many processes as the pool has
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4,
            multiprocessing_context="fork",
        )
        self._clips: Iterator[tuple[int, Tensor]] = iter(loader)
        self._playing: list[tuple[int, int, NDArray[np.uint8], int] | None] = [None] * data.slots
        self._number = 0

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
        """Write the next frame of every slot."""
        for slot, playing in enumerate(self._playing):
            number, label, own, place = playing or self._next()
            frames[slot], clips[slot], labels[slot] = own[place], number, label
            self._playing[slot] = (number, label, own, place + 1) if place + 1 < len(own) else None
        return True

    def _next(self) -> tuple[int, int, NDArray[np.uint8], int]:
        label, own = next(self._clips)
        self._number += 1
        return self._number, label, own.numpy(), 0

    def close(self) -> None:
        """End the workers."""
        del self._clips
