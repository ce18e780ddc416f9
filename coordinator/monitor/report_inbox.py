"""Receives the stages' reports: passes progress on, and ends the run when a stage fails or is lost."""

import time
from collections.abc import Callable
from itertools import product

import zmq

from common.errors import PeerError, SidewaysError
from common.messages.encoding import OtherAttemptError
from common.messages.stage_report import Done, Failed, Progress, Signalled, decode_report
from common.processes.membership import Membership
from common.processes.peer_monitor import PeerMonitor

_MAX_REPORT = 1 << 20  # bytes
_GRACE = 1.5  # seconds for a lost stage's neighbours to report the reason


class ReportInbox:
    """A PULL socket that every stage connects to. Attributes: address."""

    def __init__(
        self,
        me: Membership,
        deadline: float,
        on_progress: Callable[[Progress], None],
        on_signal: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Listen for the stages of this attempt.

        Args:
            deadline: seconds without a heartbeat after which a stage counts as lost.
            on_progress: called with each progress report.
            on_signal: called with the number of a signal that a stage received.
        """
        self._stages, self._replicas, self._attempt = me.stages, me.replicas, me.attempt
        self._on_progress, self._on_signal = on_progress, on_signal
        self._done: set[tuple[int, int]] = set()  # replica and stage
        self._failure: SidewaysError | None = None
        self._last_report_time = time.monotonic()
        self._leaving = False
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REPORT)
        self._monitor = PeerMonitor(self._socket, deadline)
        self.address = me.listen(self._socket)

    def expect_done(self) -> None:
        """Call it when a phase begins: no stage has ended it yet."""
        self._done.clear()
        self._last_report_time = time.monotonic()

    def poll(self, milliseconds: int = 0) -> None:
        """Process what has arrived, waiting at most `milliseconds` for the first report.

        Raises SidewaysError when a stage has failed or is lost."""
        if milliseconds and not self._socket.poll(milliseconds):
            self._check()
            return
        while True:
            try:
                self._handle(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                break
        self._check()

    def wait_done(self, deadline: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until every stage has ended the phase. Raises PeerError when none reports for `deadline` seconds.

        `meanwhile`: called about every 0.1 s; may raise.
        """
        self._last_report_time = time.monotonic()
        everyone = set(product(range(self._replicas), range(self._stages)))
        while self._done < everyone:
            self.poll(100)
            meanwhile()
            if time.monotonic() - self._last_report_time > deadline:
                missing = sorted({stage for _, stage in everyone - self._done})
                raise PeerError(f"stages {missing} did not end the phase and reported nothing for {deadline:g} s")

    def leave(self) -> None:
        """From now on stages may disconnect."""
        self._leaving = True

    def close(self) -> None:
        """Stop listening."""
        self._monitor.close()

    def _handle(self, message: bytes) -> None:
        try:
            report = decode_report(message, self._stages, self._attempt, self._replicas)
        except OtherAttemptError:
            return
        self._last_report_time = time.monotonic()
        match report:
            case Progress():
                self._on_progress(report)
            case Done():
                self._done.add((report.replica, report.stage))
            case Signalled():
                self._on_signal(report.signal)
            case Failed() if self._failure is None:
                kind_of = PeerError if report.code == PeerError.code else SidewaysError
                self._failure = kind_of(report.message)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._monitor.lost() and not self._leaving:
            self._await_explanations()

    def _await_explanations(self) -> None:
        """A stage's connection is lost: wait a moment for it or its neighbours to report the reason."""
        end = time.monotonic() + _GRACE
        while self._failure is None and time.monotonic() < end:
            if self._socket.poll(50):
                self._handle(self._socket.recv())
        self._failure = self._failure or PeerError(
            "a stage worker disconnected without an error: it was killed, cut off from the network, or stopped for "
            "longer than network.deadline"
        )
        raise self._failure
