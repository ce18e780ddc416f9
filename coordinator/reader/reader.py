"""Reads its slots' share of the training videos, and feeds the replicas that have those slots.

consumes   by calls a plan, once, and requests to record a trace; messages that say up to which frame it may feed
produces   frames for its replicas' first stages, targets for their top stages; after each frame a message to the
           coordinator: the slots' places, and what was met
waits for  the decoders, room for frames, the coordinator's next message
"""

import queue
from collections.abc import Sequence
from typing import Any

from common.messages.frame_envelope import TRAINING
from common.messages.stage_calls import Addresses
from common.messages.strict import Signalled
from common.processes.deadlines import for_stages
from common.processes.membership import Membership
from common.processes.open_files import allow_many_files
from common.telemetry.spans import Kind, Spans, WorkClock, clock
from coordinator.launch.host_limits import open_files
from coordinator.reader.coordinator_line import CoordinatorLine
from coordinator.reader.messages import Fed, Feed, PreviewRequest, Quit, ReaderPlan, encode_places, encode_preview
from coordinator.video.cache.place import CachePlace, place_of
from coordinator.video.datasets import training_slots
from coordinator.video.endless_steps import EndlessSteps
from coordinator.video.feeder import Feeder, Feeders
from coordinator.video.preview import preview_of
from coordinator.video.slots import Slots
from coordinator.video.targets import Step

_IDLE_MS = 50
_SPANS = 2  # of a frame: reading and feeding it


class Reader:
    """A reader: its stream and feeders, once it has a plan, and its main loop.

    Attributes:
        stop_signal: number of a stop signal that is still to be reported; 0 if there is none.
    """

    def __init__(self, me: Membership, line: CoordinatorLine) -> None:
        self.stop_signal = 0
        self._me, self._line = me, line
        self._plans: queue.SimpleQueue[ReaderPlan] = queue.SimpleQueue()
        self._playing: _Playing | None = None
        self._end = 0  # of the frames that it may feed
        self._work, self._spans = WorkClock(), Spans(0, 0, 0)

    def handle(self, call: str, stages: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Answer the coordinator's calls; runs in an RPC thread.

        read        a plan
        trace       the first frame to record, and how many
        trace_rows  what was recorded
        clock       this host's clock
        """
        match call:
            case "read":
                self._plans.put(*args)
            case "trace":
                first, ticks = args
                self._spans = Spans(first, ticks, _SPANS)
                self._work.record(self._spans)
            case "trace_rows":
                return [self._spans.rows()]
            case "clock":
                return [clock()]
            case _:
                raise AssertionError(call)
        return [None]

    def run(self) -> int:
        """Feed frames until the run is over. Returns the exit code.

        Raises:
            PeerError: the coordinator or a stage is gone, or does not answer.
        """
        while True:
            playing = self._playing
            busy = playing is not None and playing.frame < self._end
            message = self._line.receive(0 if busy else _IDLE_MS)
            while not self._plans.empty():
                self._begin(self._plans.get())
            if self.stop_signal:
                self._line.send(Signalled(attempt=self._line.attempt, signal=self.stop_signal))
                self.stop_signal = 0
            if isinstance(message, Quit):
                return message.code
            if isinstance(message, Feed):
                self._end = message.end
            elif isinstance(message, PreviewRequest) and self._playing is not None:
                self._playing.preview = message
            elif self._playing is not None and self._playing.frame < self._end:
                self._playing.feed()

    def close(self) -> None:
        """Stop reading."""
        if self._playing is not None:
            self._playing.close()
            self._playing = None

    def _begin(self, plan: ReaderPlan) -> None:
        self.close()
        allow_many_files(open_files(plan.config))
        self._end = plan.first
        self._work.clear()
        self._playing = _Playing(plan, self._me, self._line, self._work)


class _Playing:
    """What a reader plays by one plan.

    Attributes:
        frame: the number of the next one.
        preview: which frames are to be shown; None for none.
    """

    def __init__(self, plan: ReaderPlan, me: Membership, line: CoordinatorLine, work: WorkClock) -> None:
        """Start decoding, and report once the next frame is decoded. Raises PeerError or DataError."""
        self.frame, self._line = plan.first, line
        self.preview: PreviewRequest | None = None
        self._cache: CachePlace | None = place_of(plan.config.data)
        own, rows = plan.config.of_reader, plan.config.of_reader.data.slots
        share = range(me.reader * rows, (me.reader + 1) * rows)
        self._stream: Slots = training_slots(
            plan.clips, plan.form, plan.config, line.check, plan.places, self._cache, share
        )
        self._stream.errors.warn = self._warn
        self._warnings: list[str] = []
        self._reasons_sent = 0
        self._work = work
        self._feeders = _feeders(plan, me, self._warn, line)
        self._steps = EndlessSteps(self._stream, own)
        self._steps.prime()
        self._report()

    def feed(self) -> None:
        """Feed the next frame of every slot, and report it. Raises PeerError."""
        self._work.begin_tick(self.frame)
        start = clock()
        step = self._steps.next(self.frame)
        self._work.add(Kind.READ, start)
        if self.preview is not None and self.frame in self.preview.frames:
            self._show(self.preview, step)
        start = clock()
        self._feeders.push(TRAINING, self.frame, step)
        self._work.add(Kind.FEED, start)
        self._work.end_phase()  # that of a trace ends with its last frame
        self.frame += 1
        self._report()

    def close(self) -> None:
        """Stop decoding, and close the connections to the stages."""
        self._stream.close()
        self._feeders.close()
        if self._cache is not None:
            self._cache.close()

    def _show(self, asked: PreviewRequest, step: Step) -> None:
        seen = preview_of(self.frame, step, asked.rows, asked.every)
        self._line.send(encode_preview(seen, step.batch.form, self._line.attempt))
        if self.frame == asked.frames[-1]:
            self.preview = None

    def _report(self) -> None:
        errors, feeders = self._stream.errors, self._feeders
        reasons, self._reasons_sent = errors.reasons[self._reasons_sent :], len(errors.reasons)
        warnings, self._warnings = self._warnings, []
        self._line.send(
            Fed(
                attempt=self._line.attempt,
                frame=self.frame,
                places=encode_places(self._steps.places()),
                frame_bytes=feeders.frame_bytes,
                target_bytes=feeders.target_bytes,
                read_seconds=self._work.seconds([Kind.READ]),
                feed_seconds=self._work.seconds([Kind.FEED]),
                mishaps=[errors.skipped, errors.broken, errors.damaged, errors.short],
                reasons=reasons,
                warnings=warnings,
                data_error=None if self._steps.error is None else str(self._steps.error),
            )
        )

    def _warn(self, text: str) -> None:
        self._warnings.append(text)


def _feeders(plan: ReaderPlan, me: Membership, warn: Any, line: CoordinatorLine) -> Feeders:
    size, deadline = plan.config.of_replica.frame_bytes, for_stages(plan.config.network.deadline)
    stages, feeders = me.stages, list[Feeder]()
    for number, replica in enumerate(me.replicas_of(me.reader)):
        addresses: list[Addresses] = plan.addresses[number * stages : (number + 1) * stages]
        feeders.append(Feeder(me.replica(replica), addresses, size, deadline, line.check, warn))
    return Feeders(feeders)
