"""The frame batches of a phase in order, each with its target if the task has frame-sized targets.

consumes   frame batches of a stream (slots, live sources)
produces   steps: a tick's batch; its target, which is the same batch or one some frames ahead; whether it is the last
waits for  the stream
"""

from collections import deque
from dataclasses import dataclass

import torch

from common.config.settings import Config
from common.rule.colour_jitter import ColourJitter
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from coordinator.video.batch import Batch
from coordinator.video.stream import Places, Stream


def packet_of(batch: Batch, config: Config, frame: int) -> Packet:
    """The packet that stage 0 makes of a batch: float32, normalised, on the CPU. `frame` is its frame number."""
    packet = Packet(config.frame_shape, labels=batch.form, channels_last=config.channels_last)
    packet.set_header(frame - 1, frame)
    packet.clips[:], packet.labels[:] = batch.clips, batch.labels
    frames = torch.from_numpy(batch.frames)
    if batch.colours is not None:
        frames = ColourJitter(frames.device)(frames, batch.colours)
    Normaliser(*config.data.normalisation)(packet.tensor, frames)
    return packet


@dataclass(frozen=True)
class Step:
    """A tick's batches, valid until the next step.

    Attributes:
        batch: the frames.
        target: their targets; a row has none if its clip id differs from that in `batch`.
        last: whether it is the last step of a stream that ends.
    """

    batch: Batch
    target: Batch
    last: bool

    def share(self, number: int, of: int) -> "Step":
        """What one of `of` replicas gets of it."""
        batch = self.batch.share(number, of)
        return Step(batch, batch if self.target is self.batch else self.target.share(number, of), self.last)


def batches_ahead(config: Config, ends: bool) -> int:
    """How many batches are taken from a stream before the one that is being sent. `ends`: as for `StepStream`."""
    return max(_ahead(config), int(ends))


def _ahead(config: Config) -> int:
    """How many batches a target is ahead of its frames."""
    return config.ahead if config.task == "predict" else 0


class StepStream:
    """Reads steps from a stream, some of their batches ahead.

    Attributes:
        form: of the labels.
        last: the most recent step; unchanged if the stream fails afterwards.
    """

    def __init__(self, stream: Stream, config: Config, ends: bool) -> None:
        """`ends`: whether the stream ends (evaluation); then one batch is read ahead, to mark the last step."""
        self._stream, self.form = stream, stream.form
        self._ahead, self._depth = _ahead(config), batches_ahead(config, ends)
        self._spare = [Batch(config.frame_shape, config.data.pixel_type, self.form) for _ in range(self._depth + 2)]
        self._empty = Batch(config.frame_shape, config.data.pixel_type, self.form)
        self._read: deque[tuple[Batch, Places]] = deque()
        self._ended = False
        self._shown: Batch | None = None
        self.last: Step | None = None

    def prime(self) -> None:
        """Read the next step in advance, before any stage waits for it, as this may take long.

        Raises:
            DataError: see `Stream.fill`.
        """
        if not self._read and not self._ended:
            self._fill(keep_places=True)

    def next(self) -> Step | None:
        """The next step, or None after the last. Raises DataError: see `Stream.fill`."""
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
        """The place of every slot before the next step."""
        return self._read[0][1] if self._read else self._stream.places()

    def _fill(self, keep_places: bool) -> None:
        batch, places = self._spare.pop(), self._stream.places() if keep_places else []
        if self._stream.fill(batch):
            self._read.append((batch, places))
        else:
            self._ended = True
            self._spare.append(batch)

    def _target(self, batch: Batch) -> Batch:
        if self._ahead == 0:
            return batch
        return self._read[self._ahead - 1][0] if len(self._read) >= self._ahead else self._empty
