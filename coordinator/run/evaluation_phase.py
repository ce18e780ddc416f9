"""An evaluation phase, from the coordinator's side.

consumes   every frame of the validation clips once
produces   frame batches of a phase of their own, to the frozen pipeline
waits for  the decoders, the feeder's queue, and the stages at the end
"""

from collections.abc import Callable
from dataclasses import replace

from common.config.settings import Config
from common.messages.stage_calls import Scores, StageCalls
from common.messages.stage_rpc import Stages
from coordinator.monitor.report_inbox import ReportInbox
from coordinator.run.stop_request import StopRequest
from coordinator.video.feeder import Feeder
from coordinator.video.stream import Stream
from coordinator.video.targets import Batch, Step, StepStream


class EvaluationPhase:
    """Evaluations between and after the training."""

    def __init__(self, config: Config, stages: Stages, feeder: Feeder, inbox: ReportInbox, stop: StopRequest) -> None:
        self._config, self._stages, self._feeder, self._inbox, self._stop = config, stages, feeder, inbox, stop
        self._phase = 0

    def run(self, stream: Stream, on_frame: Callable[[int], None]) -> Scores | None:
        """One evaluation. `on_frame` gets the number of frames sent. Returns None where it was stopped."""
        self._phase += 1
        course = StepStream(stream, self._config, ends=True)
        course.prime()
        self._inbox.expect_done()
        self._stages.ask_all(StageCalls.evaluate, self._phase)
        complete = self._feed(course, on_frame)
        self._inbox.wait_done(1.5 * self._config.network.deadline)
        stream.close()
        return self._stages.ask(self._stages.count - 1, StageCalls.scores) if complete else None

    def _feed(self, course: StepStream, on_frame: Callable[[int], None]) -> bool:
        """All frames. Returns whether it was not stopped."""
        nothing = Batch(self._config.frame_shape)  # if nothing can be decoded after all, the stages need a last frame
        step: Step | None = course.next() or Step(nothing, nothing, last=True)
        frame, stopped = 0, False
        while step is not None:
            stopped = bool(self._stop.signal) and not step.last
            if stopped:
                step = replace(step, last=True)
            self._feeder.push(self._phase, frame, step)
            self._inbox.poll()
            frame += 1
            on_frame(frame)
            step = None if step.last else course.next()
        return not stopped
