"""What becomes of the stages' progress reports: figures for all listeners, or the end of a training that diverges."""

import time

from common.messages.stage_report import Progress
from coordinator.launch.attempt import restarts
from coordinator.monitor.listener import ProgressEvent
from coordinator.run.divergence import divergence, has_diverged, slower
from coordinator.run.setup.prepared import Prepared


class ProgressReports:
    """Takes the reports of a run. The first one after a restart says how long the run was away."""

    def __init__(self, run: Prepared) -> None:
        self._run, self._lost_at = run, run.lost_at

    def __call__(self, report: Progress) -> None:
        """Pass a report on. Raises what `divergence` returns."""
        run = self._run
        run.totals.add(report)
        event = ProgressEvent.of(report, run.totals)
        (run.presence.broadcast.replica_progress if report.replica else run.presence.broadcast.progress)(event)
        if run.snapshots is not None:
            run.snapshots.reported(report)
        self.tell_of_restart(report.tick)
        if has_diverged(report, run.state.config.recovery):
            self._end(report)

    def tell_of_restart(self, tick: int) -> None:
        """Say once how long the run was away, if this is a restart."""
        run, lost_at, self._lost_at = self._run, self._lost_at, None
        if lost_at is None:
            return
        run.presence.broadcast.restarted(tick, restarts(), round(time.time() - lost_at, 3))
        if run.healing is not None:
            run.presence.broadcast.healed(run.healing.tick, run.healing.lost)

    def _end(self, report: Progress) -> None:
        """End this attempt; with "rollback", set aside checkpoints that the divergence can have affected."""
        run, state = self._run, self._run.state
        first = report.tick - report.ticks - 2 * (state.config.ticks_to_top + 1)
        if run.snapshots is not None:
            run.snapshots.refuse()
        if state.config.recovery.divergence == "rollback":
            state.config = slower(state.config)
            run.saver.discard()
            run.saver.checkpoints.set_aside_after(first)
            run.directory.save_config(state.config)
        raise divergence(report, state.config)
