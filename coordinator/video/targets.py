"""The frames of a phase in their order, each with its target where the task has frame-sized ones.

consumes   frame batches of a stream (slots, live sources)
produces   steps: the batch of a tick; its target: the same batch, or the batch some frames ahead; whether it ends
waits for  the stream
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.config.settings import Config
from common.rule.packet import NO_CLIP, Packet
from common.rule.pixels import normalise
from coordinator.video.stream import Places, Stream


class Batch:
    """One tick's frames, reused. frames: uint8 [slots, channels, size, size]; clips, labels: int64 [slots]."""

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.frames: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.clips: NDArray[np.int64] = np.full(shape[0], NO_CLIP)
        self.labels: NDArray[np.int64] = np.full(shape[0], NO_CLIP)

    def copy_from(self, other: "Batch") -> None:
        """Hold what another holds."""
        self.frames[:], self.clips[:], self.labels[:] = other.frames, other.clips, other.labels


def packet_of(batch: Batch, config: Config, frame: int) -> Packet:
    """The batch as stage 0 makes it of what it is fed: float, normalised, on the CPU. `frame`: its number."""
    packet = Packet(config.frame_shape)
    packet.label(frame - 1, frame)
    packet.clips[:], packet.labels[:] = batch.clips, batch.labels
    normalise(packet.tensor, torch.from_numpy(batch.frames), config.data.mean, config.data.std)
    return packet


@dataclass(frozen=True)
class Step:
    """A tick's batches, valid until the next step. Without a target's clip, or with another, a row has no target."""

    batch: Batch
    target: Batch
    last: bool


class StepStream:
    """Batches one after another, some of them read ahead.

    Attributes:
        last: the step that came last. Should the stream fail, it is still what it was.
    """

    def __init__(self, stream: Stream, config: Config, ends: bool) -> None:
        """`ends`: the stream does (evaluation); then the last step is known as such when it comes."""
        self._stream = stream
        self._ahead = config.ahead if config.task == "predict" else 0
        self._depth = max(self._ahead, int(ends))
        self._spare = [Batch(config.frame_shape) for _ in range(self._depth + 2)]
        self._nothing = Batch(config.frame_shape)
        self._read: deque[tuple[Batch, Places]] = deque()
        self._ended = False
        self._shown: Batch | None = None
        self.last: Step | None = None

    def prime(self) -> None:
        """Read the next step before it is asked for: however long that takes, no stage waits for it yet.

        Raises DataError.
        """
        if not self._read and not self._ended:
            self._fill(keep_places=True)

    def next(self) -> Step | None:
        """The next step; None after the last. Raises DataError."""
        if self._shown is not None:
            self._spare.append(self._shown)
            self._shown = None
        while len(self._read) <= self._depth and not self._ended:
            self._fill(keep_places=self._depth > 0)
        if not self._read:
            return None
        batch, _ = self._read.popleft()
        self._shown = batch
        self.last = Step(batch, self._target(batch), last=self._ended and not self._read)
        return self.last

    def places(self) -> Places:
        """Where every slot is before the next step."""
        return self._read[0][1] if self._read else self._stream.places()

    def _fill(self, keep_places: bool) -> None:
        batch, places = self._spare.pop(), self._stream.places() if keep_places else []
        if self._stream.fill(batch.frames, batch.clips, batch.labels):
            self._read.append((batch, places))
        else:
            self._ended = True
            self._spare.append(batch)

    def _target(self, batch: Batch) -> Batch:
        if self._ahead == 0:
            return batch
        return self._read[self._ahead - 1][0] if len(self._read) >= self._ahead else self._nothing
