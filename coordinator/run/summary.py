"""The end of a run: the exit code, summary.json, and closing all listeners."""

import math
import time
from typing import Any

from common.processes.caller import how_to_resume
from common.rule.tasks import without_loss
from common.run_registry.records import State
from coordinator.launch.attempt import deployed, restarts
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.run.setup.prepared import Prepared
from coordinator.run.state import RunState
from coordinator.run_directory import MODEL


def exit_code(state: RunState) -> int:
    """0, or 128 + the signal that stopped the run; 0 if it is done and failed containers would be restarted."""
    if state.done and deployed():
        return 0
    return 128 + state.stop.signal if state.stop.signal else 0


def finish(run: Prepared, started: float) -> dict[str, Any]:
    """End the stages, save the summary, close everything. Returns the summary.

    `started`: when the process began, by time.monotonic.
    """
    state, presence = run.state, run.presence
    run.pipeline.close(exit_code(state))
    run.feed.close()
    run.datasets.close()
    summary = summarise(run, started)
    run.directory.save_summary(summary)
    how: State = "finished" if state.complete else "stopped"
    model = run.directory.path / MODEL
    what = f"the model is in {run.directory.path}" if model.exists() else "there is no model yet"
    presence.close(how, f"{how} at tick {state.tick}: {what}", state.tick)
    if state.done or not deployed():  # last: a run that is lost before is restarted, and must be found again
        presence.marker.remove()
    run.datasets.warn_of_errors()
    if run.totals.dropped:
        presence.terminal.warn(f"a stage dropped {run.totals.dropped} reports, because the coordinator did not keep up")
    rows = {**summary, "model": model if model.exists() else "none: stopped before the first tick"}
    presence.terminal.result({name: value for name, value in rows.items() if value is not None})
    if not state.complete and not deployed():
        presence.terminal.say(_how_to_go_on(run))
    return summary


def _how_to_go_on(run: Prepared) -> str:
    state = run.state
    if not state.saved_tick:
        return "stopped before the first tick: nothing was learnt, so start a new run"
    where = f"tick {state.tick} of {state.total_ticks}" + (", before it was evaluated" if state.over else "")
    return f"stopped at {where}: go on with {how_to_resume(run.directory.path)}"


def summarise(run: Prepared, started: float) -> dict[str, Any]:
    """The contents of summary.json."""
    state, totals = run.state, run.totals
    evaluation = state.evaluation or Evaluation(0, 0)
    names = dict.fromkeys(["top1", "top5", *without_loss(state.config, 1).names, *evaluation.figures])
    frames = (state.tick - run.start.tick) * state.config.data.slots
    summary: dict[str, Any] = {
        "run": str(run.directory.path),
        "algorithm": state.config.algorithm,
        "restarts": restarts(),
        "ticks": state.tick,
        "frames_per_second": round(frames / max(state.seconds - run.start.seconds, 1e-9), 2),
        **{f"val_{name}": _finite(evaluation.figures.get(name)) for name in names},
        "val_tick": state.evaluated_tick,
        "val_best": run.best.value,
        "val_best_tick": run.best.tick,
        "seconds": round(time.monotonic() - started, 2),
        "train_seconds": round(state.seconds, 2),
        "slowest_stage_ms": round(totals.slowest_stage_ms, 3),
        "tick_ms": round(totals.tick_ms, 3),
        "peak_memory_mib": [round(stage.peak_memory / 2**20, 1) for stage in totals.stages],
        "failed_checkpoints": run.saver.failed,
    }
    return summary | run.datasets.summary()


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return value if value is not None and math.isfinite(value) else None
