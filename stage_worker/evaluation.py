"""Evaluation in a stage: frames pass forward through the pipeline with frozen weights; there is no backward pass.

consumes   x from the stage below (stage 0: the coordinator's frames), until the frame marked as the last
produces   y for the stage above; in the top stage sums per clip
waits for  the stage below only
"""

from collections.abc import Callable

from common.rule.clip_sums import ClipSums
from common.rule.stage import Stage
from stage_worker.device_pace import DevicePace
from stage_worker.edges.ports import EdgePorts


def run(stage: Stage, ports: EdgePorts, pace: DevicePace, on_tick: Callable[[], None] = lambda: None) -> ClipSums:
    """Run one evaluation phase, calling `on_tick` at every tick. Returns the sums, empty except in the top stage."""
    task = stage.objective.task
    sums = ClipSums(stage.config.answer, task.form, stage.config.data.labels_of == "frames")
    stage.evaluating(True)
    try:
        _run(stage, ports, pace, on_tick, sums)
    finally:
        stage.evaluating(False)
    return sums


def _run(stage: Stage, ports: EdgePorts, pace: DevicePace, on_tick: Callable[[], None], sums: ClipSums) -> None:
    tick, last = 0, False
    while not last:
        on_tick()
        pace.begin(tick)
        x, skipped = ports.receive_input(tick), ports.receive_skips(tick)
        if x is not None:
            last = x.last
            y = stage.infer(x, skipped)
            if not stage.is_top:
                ports.send_output(tick, x, y, stage.skip_outputs)
            elif (target := ports.target(tick, x)) is None:
                sums.add(x.clips, x.labels, stage.objective.task.answers(y))
            else:
                sums.add_outputs(x.clips, x.labels, y, target.tensor, target.clips)
        pace.end(tick)
        tick += 1
    if not stage.is_top:
        ports.settle(tick - 1)
