"""All stages behind one interface: configure them, start a phase, push its frames, wait for its end.

    consumes   steps (frame batches and their targets), one a tick
    produces   calls to the stages, frames for stage 0, targets for the top stage; their reports, to `on_progress`
    waits for  answers to calls and room for frames, both unblocked by the stages; processes reports while waiting

The product, the tests' driver and the benchmarks drive their stages with this class.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from common.errors import PeerError
from common.messages.stage_calls import Addresses, Plan, StageCalls
from common.messages.stage_report import Progress
from common.messages.stage_rpc import Stages
from common.processes.deadlines import for_stages
from common.processes.membership import REPLICAS, STAGES, Membership
from common.processes.rpc import start_rpc
from coordinator.monitor.report_inbox import ReportInbox
from coordinator.run.readers import Readers
from coordinator.video.feeder import Feeder, Feeders
from coordinator.video.targets import Step

_POLL_EVERY = 0.005  # seconds between polls for reports while frames are pushed: a poll costs as much as a push


class Pipeline:
    """All stages of a run.

    Attributes:
        me: this process's membership.
        stages: calls to the stages.
        addresses: those that the stages listen on, replica by replica, once configured.
        readers: they feed the training; None if this process does.
        on_progress: called with each progress report.
    """

    def __init__(
        self,
        me: Membership,
        deadline: float,
        on_progress: Callable[[Progress], None] = lambda report: None,
        on_signal: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Open the connections that the stages wait for. Raises PeerError.

        Args:
            me: arranged in as many replicas as the run has.
            deadline: seconds that each wait may take.
            on_progress: called with each progress report, during calls of this class's methods; may be set later.
            on_signal: called with the number of a signal that a stage received.
        """
        self.me, self._deadline = me, deadline
        self.on_progress = on_progress
        self._inbox = ReportInbox(me, deadline, lambda report: self.on_progress(report), on_signal)
        self.readers = Readers(me, for_stages(deadline), on_signal) if me.readers else None
        me.store.set(REPLICAS, str(me.replicas))
        me.store.set(STAGES, str(me.stages))
        me.store.set("reports", self._inbox.address)
        start_rpc(me)
        self.stages = Stages(me, deadline, self.poll)
        if self.readers is not None:
            self.readers.poll_all = self.poll
        self.addresses: list[Addresses] = []
        self._feeder: Feeders | None = None
        self._next_poll = 0.0

    @property
    def address(self) -> str:
        """The address at which others reach this process."""
        return self.me.address

    @property
    def feeder(self) -> Feeders:
        """Sends the frames. Available after `configure`."""
        assert self._feeder is not None, "call configure first"
        return self._feeder

    def configure(self, plan: Plan, warn: Callable[[str], None] = lambda text: None) -> None:
        """Build every stage. May be called again with another plan. Raises ConfigError or PeerError.

        Args:
            plan: of one replica, the same for all.
            warn: called with the reason if frames cannot go through shared memory.
        """
        self.connect(self.stages.configure(plan), plan.config.frame_bytes, warn)

    def connect(self, addresses: list[Addresses], size: int, warn: Callable[[str], None] = lambda text: None) -> None:
        """Connect to all stages, replica by replica, to send batches of `size` bytes."""
        self._close_feeder()
        self.addresses = addresses
        self._feeder = Feeders([self._feeder_of(replica, size, warn) for replica in range(self.me.replicas)])

    def _feeder_of(self, replica: int, size: int, warn: Callable[[str], None]) -> Feeder:
        me, first = self.me.replica(replica), replica * self.me.stages
        addresses = self.addresses[first : first + me.stages]
        if self.readers is not None:  # the memory is a reader's; this process only feeds evaluations
            addresses = [replace(each, memory="") for each in addresses]
        return Feeder(me, addresses, size, for_stages(self._deadline), self.poll, warn)

    def train(self, first: int, last: int) -> None:
        """Start ticks first … last - 1, each of which needs one `push`."""
        self._inbox.expect_done()
        self.stop_at(last)
        self.stages.call_all(StageCalls.train, first)

    def stop_at(self, last: int) -> None:
        """End the training before tick `last`, which must lie beyond every stage's current tick."""
        self.stages.call_all(StageCalls.stop_at, last)

    def evaluate(self, phase: int) -> None:
        """Start an evaluation phase; it ends with the step that is marked as the last."""
        self._inbox.expect_done()
        self.stages.call_all(StageCalls.evaluate, phase)

    def push(self, phase: int, frame: int, step: Step) -> None:
        """Send a tick's frames and process reports. Raises SidewaysError."""
        self.feeder.push(phase, frame, step)
        if time.monotonic() >= self._next_poll:
            self.poll()

    def poll(self, milliseconds: int = 0) -> None:
        """Process reports, waiting at most `milliseconds` for the first. Raises SidewaysError."""
        self._next_poll = time.monotonic() + _POLL_EVERY
        try:
            self._inbox.poll(milliseconds)
        except PeerError:
            self._poll_readers()  # a stage may have lost a reader, which says itself why it ends
            raise
        self._poll_readers()

    def wait_done(self) -> None:
        """Wait until every stage has ended the phase. Raises PeerError when none reports for too long."""
        self._inbox.wait_done(for_stages(self._deadline), self._poll_readers)

    def close(self, code: int = 0) -> None:
        """End every stage worker, with this exit code."""
        self._inbox.leave()
        if self.readers is not None:
            self.readers.quit(code)
        self.stages.call_all(StageCalls.quit, code)
        self._close_feeder()

    def _poll_readers(self) -> None:
        if self.readers is not None:
            self.readers.poll()

    def _close_feeder(self) -> None:
        if self._feeder is not None:
            self._feeder.close()
            self._feeder = None
