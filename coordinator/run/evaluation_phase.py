"""An evaluation phase, from the coordinator's side.

consumes   every frame of the validation clips once
produces   frame batches of a phase of their own, to the frozen pipeline; the scores, for all listeners
waits for  the decoders, room for frames, and the stages at the end
"""

import math
from collections.abc import Callable
from dataclasses import replace

from common.messages.frame_envelope import TRAINING
from common.messages.stage_calls import StageCalls
from common.rule.clip_sums import Scores, merged
from common.rule.pixels import Normaliser
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.monitor.listener import EvaluationEvent
from coordinator.run.checkpointing import Checkpointing
from coordinator.run.setup.prepared import Prepared
from coordinator.video.batch import Batch
from coordinator.video.stream import Stream
from coordinator.video.targets import Step, StepStream


class EvaluationPhase:
    """Runs evaluations, between two training phases."""

    def __init__(self, run: Prepared, checkpointing: Checkpointing) -> None:
        self._run, self._state, self._pipeline = run, run.state, run.pipeline
        self._checkpointing, self._phase = checkpointing, TRAINING

    def run(self) -> None:
        """Evaluate on every frame of the validation clips, unless there are none or the run is stopped."""
        run, state, val = self._run, self._state, self._run.datasets.val
        if val is None or state.ending:
            return
        run.presence.broadcast.state("running", "evaluating", state.tick)
        run.presence.terminal.begin("evaluating", -(-val.frames // state.config.data.slots))
        scores = self._scores(run.datasets.open_evaluation(), run.presence.terminal.evaluating)
        if scores is not None:
            self._report(scores, run.evaluator.evaluate(scores))

    def _report(self, scores: Scores, found: Evaluation) -> None:
        run, state = self._run, self._state
        for text in found.problems:
            run.presence.terminal.warn(text)
        state.evaluation, state.evaluated_tick = found, state.tick
        figures = {**found.figures, "clips": found.clips, "frames": found.frames}
        figures = {f"val_{name}": value for name, value in figures.items() if math.isfinite(value)}
        data, pictures = state.config.data, None
        if scores.pictures is not None:
            targets, outputs = Normaliser(*data.normalisation).to_pixels(scores.pictures)
            pictures = targets, outputs
        classes = run.datasets.train.classes
        event = EvaluationEvent(state.tick, state.seconds, found, figures, pictures, classes)
        run.presence.broadcast.evaluated(event)
        run.best.evaluated(state.tick, found)
        if found.score is not None:
            self._checkpointing.finish()
            run.saver.record_score(state.tick, found.score)

    def _scores(self, stream: Stream, on_frame: Callable[[int], None]) -> Scores | None:
        """Run the phase. `on_frame` is called with the number of batches sent. Returns None if it was stopped."""
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
