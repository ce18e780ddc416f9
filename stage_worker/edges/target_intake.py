"""The top stage's frame-sized targets, which come from what feeds this replica.

They arrive before the frame that they belong to, by as many ticks as it takes to the top, and wait in the socket's
queue.

    consumes   an envelope and raw frames, pushed by the feeder
    produces   a target tensor, on the stage's device
    waits for  the feeder's next batch, at most the deadline
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from stage_worker.edges.frame_intake import FrameUpload
from stage_worker.edges.frame_socket import FrameSocket

Raw = tuple[Tensor, NDArray[np.int64]]  # frames as received, and their clips


class TargetIntake:
    """The top stage's source of frame-sized targets, matched by frame number.

    When training pauses, some frames have not reached the top stage yet. Their targets are kept in `early`.

    Attributes:
        early: targets whose frames the top stage does not hold yet, by phase and frame.
    """

    def __init__(self, socket: FrameSocket, out: Tensor, normalise: Normaliser) -> None:
        """`out` is overwritten at every tick."""
        self.phase = 0
        self.socket = socket
        self.early: dict[tuple[int, int], Raw] = {}
        self._out, self._normalise = out, normalise
        self._upload = FrameUpload(out.device)

    def target(self, tick: int, held: Packet) -> Target:
        """The normalised target of the frames in `held`. Within a phase, targets must arrive in frame order."""
        expected = self.phase, held.frame
        raw = self.early.pop(expected, None)
        while raw is None:
            key, received = self._receive(tick, self.phase, held.frame, held.frame)
            if key == expected:
                raw = received
            else:
                self.early[key] = received
        frames, clips = raw
        self._normalise(self._out, self._upload(frames))
        return Target(self._out, clips)

    def gather(self, first: int, end: int, tick: int) -> None:
        """Receive the targets of training frames first … end - 1, all of which have been sent, into `early`."""
        while any((0, frame) not in self.early for frame in range(first, end)):
            key, received = self._receive(tick, 0, first, end - 1)
            self.early[key] = received

    def _receive(self, tick: int, phase: int, first: int, last: int) -> tuple[tuple[int, int], Raw]:
        """The next target; one of this phase must be of the frames `first` … `last`, and not have come before."""
        envelope, frames = self.socket.receive(tick)
        key = envelope.phase, envelope.frame
        if key in self.early or (key[0] == phase and not first <= key[1] <= last):
            raise self.socket.lost(tick, envelope, (phase, last))
        return key, (frames, envelope.clips)
