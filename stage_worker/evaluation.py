"""Evaluation in a stage: frames pass forward through the pipeline with frozen weights; there is no backward pass.

consumes   x from the stage below (stage 0: the coordinator's frames), until the frame marked as the last
produces   y for the stage above; in the top stage sums per clip
waits for  the stage below only
"""

from collections.abc import Callable, Sequence

from common.rule.clip_sums import ClipSums
from common.rule.stage import Stage
from stage_worker.device_pace import DevicePace
from stage_worker.edges.ports import EdgePorts
from stage_worker.stage_stream import StageStream


class Evaluation:
    """One phase of a stage.

    Attributes:
        sums: empty except in the top stage.
        stream: on which the stage computes.
        last: whether its last frame has passed.
    """

    def __init__(
        self, stage: Stage, ports: EdgePorts, pace: DevicePace, stream: StageStream, on_tick: Callable[[], None]
    ) -> None:
        """`on_tick` is called at every tick."""
        self._stage, self._ports, self._pace, self._on_tick, self.stream = stage, ports, pace, on_tick, stream
        task = stage.objective.task
        self.sums = ClipSums(stage.config.answer, task.form, stage.config.data.labels_of == "frames")
        self.last = False

    def begin(self) -> None:
        """Begin the phase."""
        self._stage.evaluating(True)
        self.stream.begin()

    def step(self, tick: int) -> None:
        """Run one tick."""
        self._on_tick()
        self._pace.begin(tick)
        stage, ports = self._stage, self._ports
        x, skipped = ports.receive_input(tick), ports.receive_skips(tick)
        if x is not None:
            self.last = x.last
            y = stage.infer(x, skipped)
            if not stage.is_top:
                ports.send_output(tick, x, y, stage.skip_outputs)
            elif (target := ports.target(tick, x)) is None:
                self.sums.add(x.clips, x.labels, stage.objective.task.answers(y))
            else:
                self.sums.add_outputs(x.clips, x.labels, y, target.tensor, target.clips)
        self._pace.end(tick)
        if self.last and not stage.is_top:
            ports.settle(tick)

    def end(self) -> None:
        """End the phase."""
        self.stream.end()
        self.leave()

    def leave(self) -> None:
        """End the phase after an error, without a wait: the device may be stuck, as a neighbour may be lost."""
        self._stage.evaluating(False)


def run(held: Sequence[Evaluation]) -> None:
    """Run a phase of the stages that a worker holds, from the bottom; they take turns in a tick."""
    steps = [(one, one.stream.over(one.step)) for one in held]
    for one in held:
        one.begin()
    tick = 0
    try:
        while not all(one.last for one in held):
            for one, step in steps:
                if not one.last:
                    step(tick)
            tick += 1
    except BaseException:
        for one in held:
            one.leave()
        raise
    for one in held:
        one.end()
