"""An evaluation phase, from the coordinator's side.

consumes   every frame of the validation clips once
produces   frame batches of a phase of their own, to the frozen pipeline
waits for  the decoders, room for frames, and the stages at the end
"""

from collections.abc import Callable
from dataclasses import replace

from common.messages.frame_envelope import TRAINING
from common.messages.stage_calls import StageCalls
from common.rule.clip_sums import Scores, merged
from coordinator.run.pipeline import Pipeline
from coordinator.run.state import RunState
from coordinator.video.batch import Batch
from coordinator.video.stream import Stream
from coordinator.video.targets import Step, StepStream


class EvaluationPhase:
    """Runs evaluations, between two training phases."""

    def __init__(self, state: RunState, pipeline: Pipeline) -> None:
        self._state, self._pipeline, self._phase = state, pipeline, TRAINING

    def run(self, stream: Stream, on_frame: Callable[[int], None]) -> Scores | None:
        """Run an evaluation. `on_frame` is called with the number of batches sent. Returns None if it was stopped."""
        self._phase += 1
        steps = StepStream(stream, self._state.config, ends=True)
        steps.prime()
        self._pipeline.evaluate(self._phase)
        complete = self._feed(steps, on_frame)
        self._pipeline.wait_done()
        stages = self._pipeline.stages
        return merged(stages.call_each(stages.count - 1, StageCalls.scores)) if complete else None

    def _feed(self, steps: StepStream, on_frame: Callable[[int], None]) -> bool:
        """Send all frames. Returns False if it was stopped."""
        config = self._state.config
        # if nothing can be decoded, the stages still need a last frame
        empty = Batch(config.frame_shape, config.data.pixel_type, steps.form)
        step: Step | None = steps.next() or Step(empty, empty, last=True)
        frame, stopped = 0, False
        while step is not None:
            stopped = bool(self._state.stop.signal) and not step.last
            if stopped:
                step = replace(step, last=True)
            self._pipeline.push(self._phase, frame, step)
            frame += 1
            on_frame(frame)
            step = None if step.last else steps.next()
        return not stopped
