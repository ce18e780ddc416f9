"""The readers, from the coordinator's side: tells them what to play and how far, and gathers what they report.

consumes   their messages: frames fed, places, mishaps; a failure
produces   a plan for each, once; for each tick a message that lets them feed one more frame
waits for  a reader that is `_AHEAD` frames behind, unblocked by its replicas' ticks; for its first frame to be decoded
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import zmq

from common.config.settings import Config
from common.errors import DataError, PeerError, SidewaysError
from common.messages.encoding import OtherAttemptError
from common.messages.stage_calls import Addresses
from common.messages.stage_rpc import result_of, start_call
from common.messages.strict import Failed, Signalled
from common.processes.membership import Membership
from common.processes.names import reader_name, reader_text
from common.processes.peer_monitor import PeerMonitor
from common.rule.label_form import LabelForm
from coordinator.reader.messages import (
    READER_LINE,
    Fed,
    Feed,
    Message,
    PreviewReply,
    PreviewRequest,
    Quit,
    ReaderPlan,
    decode_message,
    decode_places,
    decode_preview,
    encode_message,
)
from coordinator.video.files.clips import Clips
from coordinator.video.preview import Preview
from coordinator.video.stream import Places, PlaybackErrors

_AHEAD = 16  # frames that readers may still have to feed: their messages take time
_WAIT_MS = 100
_MOST_MESSAGE = 1 << 20  # bytes


class ReaderHandle:
    """One reader.

    Attributes:
        fed: its last report; None before its first frame is decoded.
        errors: its playback errors.
    """

    def __init__(self, me: Membership, number: int, deadline: float) -> None:
        """Listen for it. It counts as lost after `deadline` seconds without a heartbeat."""
        self.fed: Fed | None = None
        self.errors = PlaybackErrors()
        self._lost = False
        self._number, self._attempt, self._host = number, me.attempt, me.readers[number].address
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.MAXMSGSIZE, _MOST_MESSAGE)
        self._monitor = PeerMonitor(self.socket, deadline)
        me.store.set(f"{READER_LINE}/{number}", me.listen(self.socket))

    @property
    def text(self) -> str:
        """What messages call it."""
        return reader_text(self._number)

    def send(self, message: Message) -> None:
        """Send it a message, without waiting. Nothing is sent to one that is lost."""
        with suppress(zmq.Again):
            self.socket.send(encode_message(message), zmq.NOBLOCK)

    def receive(self) -> Message | None:
        """Its next message, if one has arrived. Raises PeerError if there is none and the reader is gone."""
        while True:
            self._lost = self._monitor.lost() or self._lost
            try:
                return decode_message(self.socket.recv(zmq.NOBLOCK), self._attempt)
            except OtherAttemptError:
                continue
            except zmq.Again:
                if not self._lost:
                    return None
            raise PeerError(
                f"{self.text} on {self._host} disconnected without an error: it was killed, cut off from the network, "
                f"or stopped for longer than network.deadline"
            )

    def take(self, fed: Fed) -> None:
        """Note what it reports."""
        self.fed = fed
        self.errors.skipped, self.errors.broken, self.errors.damaged, self.errors.short = fed.mishaps
        for reason in fed.reasons:
            self.errors.note(reason)
        for text in fed.warnings:
            self.errors.warn(text)

    def close(self) -> None:
        """Close the connection."""
        self._monitor.close()


class Readers:
    """All readers of a run. A `TrainingFeed`, once `open` was called.

    Attributes:
        handles: the readers, in order.
        error: why there are no more frames.
    """

    def __init__(self, me: Membership, deadline: float, on_signal: Callable[[int], None]) -> None:
        """Listen for the readers. `deadline`: seconds that each wait may take."""
        self.handles = [ReaderHandle(me, number, deadline) for number in range(len(me.readers))]
        self.error: DataError | None = None
        self.poll_all: Callable[[], None] = self.poll
        self._me, self._deadline, self._on_signal = me, deadline, on_signal
        self._slots = self._end = 0
        self._failure: SidewaysError | None = None
        self._leaving = False
        self._plays: tuple[Config, LabelForm] | None = None
        self._shown: Callable[[PreviewReply], None] = lambda shown: None

    def open(
        self, config: Config, clips: Clips, places: Places | None, first: int, stages: Sequence[Addresses]
    ) -> None:
        """Let them start to decode. May be called again for another run with the same processes.

        Args:
            config: of the whole run, with what was measured.
            places: where the slots start; None: at the beginning.
            first: the number of the next frame.
            stages: the addresses of all stages, replica by replica.

        Raises:
            PeerError: a reader does not answer.
        """
        if self._end:
            self._wait_for(self._end)  # what they report of an earlier run
        self._slots, self._end, self.error = config.of_reader.data.slots, first, None
        self._plays = config, clips.form
        pending = []
        for number, handle in enumerate(self.handles):
            handle.fed = None
            replicas, count = self._me.replicas_of(number), self._me.stages
            own = list(stages[replicas.start * count : replicas.stop * count])
            part = places and places[number * self._slots : (number + 1) * self._slots]
            plan = ReaderPlan(config, clips.clips, clips.form, part, own, first)
            pending.append(start_call(reader_name(number), "read", (plan,), self._deadline))
        for handle, future in zip(self.handles, pending, strict=True):
            result_of(handle.text, "read", future, self._deadline)

    # ---- a TrainingFeed

    def prime(self) -> None:
        """Wait until every reader has decoded its next frame."""
        while any(handle.fed is None for handle in self.handles):
            self._wait()

    def read(self, tick: int) -> None:
        """Nothing: frames are not read in this process."""

    def push(self, tick: int) -> None:
        """Let the readers feed the frame of this tick, and wait for those that are far behind. Raises SidewaysError."""
        self._end = tick + 1
        for handle in self.handles:
            handle.send(Feed(attempt=self._me.attempt, end=self._end))
        self.poll_all()
        self._wait_for(self._end - _AHEAD)

    def places(self, wait: bool = True) -> Places:
        """The place of every slot before the next frame."""
        if wait:
            self._wait_for(self._end)
        reports = [handle.fed for handle in self.handles]
        return [place for fed in reports if fed is not None for place in decode_places(fed.places, self._slots)]

    def close(self) -> None:
        """Nothing: they stop when they quit."""

    # ---- what goes on beside the ticks

    def request_previews(self, frames: list[int], rows: int, every: int, take: Callable[[Preview], None]) -> None:
        """Let the first reader, which feeds replica 0, send a part of these frames, and call `take` with each.

        Args:
            frames: their numbers, in order; none may be fed yet.
            rows, every: how much of them, as in coordinator/video/preview.py.
            take: is called during later calls of this class's methods.
        """
        assert self._plays is not None, "call open first"
        config, form = self._plays
        asked = PreviewRequest(attempt=self._me.attempt, frames=frames, rows=rows, every=every)
        self._shown = lambda shown: take(decode_preview(shown, asked, config, form))
        self.handles[0].send(asked)

    def poll(self) -> None:
        """Process their messages. Raises SidewaysError when one has failed or is lost."""
        for handle in self.handles:
            try:
                while (message := handle.receive()) is not None:
                    self._handle(handle, message)
            except PeerError as error:
                if not self._leaving:
                    self._failure = self._failure or error
        if self._failure is not None:
            raise self._failure

    def quit(self, code: int) -> None:
        """Let them exit with this code."""
        self._leaving = True
        for handle in self.handles:
            handle.send(Quit(attempt=self._me.attempt, code=code))

    def _handle(self, handle: ReaderHandle, message: Message) -> None:
        match message:
            case Fed():
                handle.take(message)
                if message.data_error is not None and self.error is None:
                    self.error = DataError(message.data_error)
            case PreviewReply():
                self._shown(message)
            case Failed() if self._failure is None:
                kind_of = PeerError if message.code == PeerError.code else SidewaysError
                self._failure = kind_of(message.message)
            case Signalled():
                self._on_signal(message.signal)

    def _wait_for(self, frame: int) -> None:
        """Wait until all frames before `frame` were fed. Raises PeerError after the deadline."""
        start = time.monotonic()
        while slow := [handle for handle in self.handles if handle.fed is None or handle.fed.frame < frame]:
            self._wait()
            if time.monotonic() - start > self._deadline:
                raise PeerError(
                    f"{slow[0].text} has fed no frame {frame - 1} for {self._deadline:g} s: see its own messages. Is "
                    f"its disk slow, or one of its replicas? Raise network.deadline if such waits are expected"
                )

    def _wait(self) -> None:
        """Wait a moment for a message of a reader."""
        zmq.zmq_poll([(handle.socket, zmq.POLLIN) for handle in self.handles], _WAIT_MS)
        self.poll_all()
