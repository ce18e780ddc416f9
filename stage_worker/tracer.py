"""A stage's part of a trace: what it did when, in each of some ticks.

The coordinator names the ticks between two phases. Until the first of them comes there is one call more in a tick, and
after the last one everything is as it was.
"""

from threading import Event
from typing import TYPE_CHECKING

from common.telemetry.spans import Kind, Point, Rows, Spans, clock
from stage_worker.edges.ends import Receiver
from stage_worker.edges.frame_intake import FrameIntake
from stage_worker.loop import Loop, Ports

if TYPE_CHECKING:
    from stage_worker.exact_loop import ExactLoop

_EACH = 24  # spans of a tick, at most, and two more of each micro-batch


class Tracer:
    """Records the ticks first … first + ticks - 1 of a loop."""

    def __init__(self, loop: "Loop | ExactLoop", first: int, ticks: int) -> None:
        """Called while no tick runs."""
        self._loop, self._first, self._last = loop, first, first + ticks - 1
        self._spans = Spans(ticks, _EACH + 2 * loop.stage.config.parts)
        self._done = Event()
        self._plain = loop.tick
        self._spans.replace(Point(loop, "tick", Kind.TICK), self._tick)

    def rows(self, seconds: float) -> Rows:
        """What was recorded; waits `seconds` at most for the last tick. Called in an RPC thread."""
        self._done.wait(seconds)
        return self._spans.rows()

    def close(self) -> None:
        """Record no more. Called while no tick runs, or between two spans."""
        self._spans.leave()
        self._done.set()

    def _tick(self, k: int) -> None:
        """In the place of the loop's own."""
        if k < self._first:
            self._plain(k)
            return
        if k == self._first:
            for point in points(self._loop):
                self._spans.record(point)
        self._spans.tick, self._spans.inside = k, True
        start = clock()
        self._plain(k)
        self._spans.note(Kind.TICK, start)
        self._spans.inside = False
        if k >= self._last:
            self.close()


def points(loop: "Loop | ExactLoop") -> list[Point]:
    """What is recorded of a loop beside its ticks."""
    own = [Point(loop.reporter, "ticked", Kind.REPORT), Point(loop.stage, "update", Kind.UPDATE)]
    if not isinstance(loop, Loop):  # torch's schedule waits and sends by itself
        chunks = (("forward_one_chunk", Kind.FORWARD), ("backward_one_chunk", Kind.BACKWARD))
        return own + [Point(loop.pipe, method, kind) for method, kind in chunks] + _data(loop.ports)
    own += [Point(loop.stage, "forward", Kind.FORWARD), Point(loop.ports, "settle", Kind.SETTLE)]
    own += [Point(loop.stage, "backward_from_loss" if loop.stage.is_top else "backward", Kind.BACKWARD)]
    return own + _edges(loop.ports) + _data(loop.ports)


def _edges(ports: Ports) -> list[Point]:
    own = []
    if isinstance(ports.inputs, Receiver):
        own.append(Point(ports.inputs, "wait", Kind.WAIT_ACTIVATION))
    if ports.gradients_in is not None:
        own.append(Point(ports.gradients_in, "wait", Kind.WAIT_GRADIENT))
    if ports.outputs is not None:
        own.append(Point(ports.outputs, "send", Kind.SEND_ACTIVATION))
        own.append(Point(ports.outputs, "wait", Kind.WAIT_ACTIVATION_SENT))
    if ports.gradients_out is not None:
        own.append(Point(ports.gradients_out, "send", Kind.SEND_GRADIENT))
        own.append(Point(ports.gradients_out, "wait", Kind.WAIT_GRADIENT_SENT))
    return own


def _data(ports: Ports) -> list[Point]:
    own = []
    if isinstance(ports.inputs, FrameIntake):
        own.append(Point(ports.inputs.socket, "receive", Kind.WAIT_FRAMES))
    if ports.targets is not None:
        own.append(Point(ports.targets.socket, "receive", Kind.WAIT_TARGETS))
    return own
