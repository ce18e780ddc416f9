"""Slots fed by a torch.utils.data.DataLoader, for comparison with the decoding pool (benchmarks/stream.py).

Each sample is a clip: a worker decodes all of it, with the product's own player, into one tensor, which reaches the
main process in shared memory. There each slot plays its clip frame by frame, then takes the next clip.
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
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clips import Clip

_CHUNK = 64  # frames decoded at a time
_ENDLESS = 1 << 40  # samples


class ClipDataset(Dataset[tuple[int, Tensor]]):
    """Sample n is the n-th clip of the play order: its label and frames, uint8 [frames, channels, height, width]."""

    def __init__(self, clips: list[Clip], data: Data) -> None:
        self._job = Job(clips, data.model_copy(update={"slots": 1}), 0, train=True)
        self._player = ClipPlayer(self._job, lambda kind, reason: None)

    def __getitem__(self, entry: int) -> tuple[int, Tensor]:
        clip = self._job.order().entry(entry)
        assert clip is not None
        data = self._job.data
        frames = np.empty((clip.frames + 2 * _CHUNK, data.channels, *data.shape), np.uint8)
        places = iter(range(0, len(frames), _CHUNK))
        chunks = self._player.chunks(entry, 0, lambda: frames[(place := next(places)) : place + _CHUNK])
        written = sum(chunk.frames for chunk in takewhile(lambda chunk: chunk.clip == entry, chunks))
        assert isinstance(clip.label, int)
        return clip.label, torch.from_numpy(frames[:written])


class LoaderSlots:
    """The interface of the product's Slots, implemented with a DataLoader."""

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

    def fill(self, batch: Batch) -> bool:
        """Write each slot's next frame, clip number and label. Returns True: the stream does not end."""
        for slot, playing in enumerate(self._playing):
            number, label, clip_frames, index = playing or self._next()
            batch.frames[slot], batch.clips[slot], batch.labels[slot] = clip_frames[index], number, label
            more = index + 1 < len(clip_frames)
            self._playing[slot] = (number, label, clip_frames, index + 1) if more else None
        return True

    def _next(self) -> tuple[int, int, NDArray[np.uint8], int]:
        label, clip_frames = next(self._clips)
        self._number += 1
        return self._number, label, clip_frames.numpy(), 0

    def close(self) -> None:
        """Stop the workers."""
        del self._clips
