"""The training loop, from the coordinator's side.

    video files ─► stream ─► steps ─► feeder ──frames──► stage 0 ⇄ … ⇄ stage D-1
                                        └────targets────────────────────┘     all ──reports──► inbox ─► broadcast

With data.readers the upper line up to the stages is in the readers, and this process tells them how far to go.

    phases        consume    commands; evaluations and checkpoints that are due
                  produce    a saved model, checkpoints, evaluations, answers
                  wait for   the stages to end a phase (unblocked by their last tick), a checkpoint to be written
    ticks         consume    decoded steps; reports
                  produce    one frame batch a tick
                  wait for   the stream (unblocked by the decoders), room for frames (by stage 0's ticks)

The stages run up to an agreed last tick. To stop early, the coordinator holds frames back, moves the last tick to one
that no stage can have reached without them, and sends the remaining frames: all stages end at the same tick.
"""

import time

from common.errors import DataError, SidewaysError
from common.processes.caller import how_to_resume
from common.run_registry.records import Answer
from common.telemetry.spans import Kind, clock
from coordinator.run.checkpointing import Checkpointing, position_of
from coordinator.run.evaluation_phase import EvaluationPhase
from coordinator.run.probing import Probing
from coordinator.run.progress_reports import ProgressReports
from coordinator.run.setup.prepared import Prepared
from coordinator.run.steerable import SteerableRun

_GRACE_MS = 100
_LAST_TRACE = 10.0  # seconds


class Training:
    """Runs a training's ticks, with evaluations and checkpoints in between."""

    def __init__(self, run: Prepared) -> None:
        self._run, self._state = run, run.state
        self._checkpointing = Checkpointing(run)
        self._steerable = SteerableRun(run, self._checkpointing)
        self._evaluation = EvaluationPhase(run, self._checkpointing)
        self._probing = Probing(run)
        self._reports = run.pipeline.on_progress = ProgressReports(run)

    def run(self) -> None:
        """Train until the last planned tick, or until a request to stop.

        Raises:
            DataError: there are no more frames; model and checkpoint of the last tick have been saved.
        """
        state = self._state
        try:
            self._phases()
            if state.data_error is not None:
                raise state.data_error
        except DataError as error:
            self._checkpointing.finish()
            self._run.presence.terminal.end()
            if state.saved_tick == 0:
                raise
            raise DataError(
                f"{error}. The model of tick {state.saved_tick} is saved: when the data are available again, continue "
                f"with `{how_to_resume(self._run.directory.path)}`"
            ) from error

    def _phases(self) -> None:
        state, saving = self._state, self._checkpointing
        self._run.metrics.announce(self._run.directory.path)
        self._trace_at_start(state.config.report.trace_ticks)
        self._pause_again()
        if state.over:  # no report will come
            self._reports.tell_of_restart(state.tick)
        if state.over or self._run.overdue:  # an earlier attempt was lost after its last tick, or in an evaluation
            saving.save_model()
            if self._run.start.in_memory:  # which is given back when the run ends
                saving.save(worth_waiting=True)
            self._evaluation.run()
        while not state.over and not state.ending:
            if not self._train(saving.next_pause()):
                break
            evaluating = saving.due(state.config.evaluate_every)
            if evaluating:
                saving.save_model()  # before anything else can go wrong
            if evaluating or saving.due(state.config.checkpoint.every):
                saving.save(worth_waiting=evaluating)
            if evaluating:
                self._evaluation.run()
            self._run.presence.commands.execute(self._steerable)
        if state.saved_tick < state.tick:  # a request to stop came since the last save
            saving.save_model()
            saving.save(worth_waiting=True)
        self._finish()

    def _pause_again(self) -> None:
        """Wait, if this is a restart of a run that was paused. One that is resumed by hand goes on."""
        run = self._run
        if run.lost_at is not None and run.directory.paused:
            run.presence.commands.hold(self._steerable)
        else:
            run.directory.set_paused(False)

    def _train(self, last: int) -> bool:
        """Run ticks up to `last`. Returns False if none was run: there were no frames, or the run must end."""
        run, state = self._run, self._state
        run.feed.prime()
        if run.feed.error is not None:
            state.data_error = run.feed.error
        if state.ending:
            return False
        start, ending = time.monotonic(), False
        run.presence.terminal.begin("training", state.total_ticks)
        run.pipeline.train(state.tick, last)
        run.metrics.training(True)
        run.presence.broadcast.state("running", "", state.tick)
        while state.tick < last:
            if (state.ending or run.presence.commands.wanted) and not ending:
                ending, last = True, self._end_soon(last)
            self._tick(last)
        run.work.end_phase()
        run.pipeline.wait_done()
        run.metrics.training(False)
        state.seconds += time.monotonic() - start
        return True

    def _tick(self, last: int) -> None:
        """Feed a tick's frames, and poll probe, checkpoint and trace. Raises DataError if there were never any."""
        run, state = self._run, self._state
        run.work.begin_tick(state.tick)
        start = clock()
        step = run.feed.read(state.tick)
        run.work.add(Kind.READ, start)
        self._probing.poll(step, last)
        if run.video is not None and run.video.wanted:
            run.video.see(state.tick, step)
        start = clock()
        run.feed.push(state.tick)
        run.work.add(Kind.FEED, start)
        state.data_error = state.data_error or run.feed.error
        run.metrics.fed += 1
        state.tick += 1
        if run.snapshots is not None and run.snapshots.due(state.tick):
            run.snapshots.keep(position_of(run))
        run.saver.poll()
        run.tracer.poll(state.tick)

    def _end_soon(self, last: int) -> int:
        """Move the last tick close, but to one that no stage can have passed without frames that are still to come."""
        run, state = self._run, self._state
        if state.stop.signal:
            run.pipeline.poll(_GRACE_MS)  # if the launcher stops us because a stage died, its report comes first
            run.presence.terminal.say("stopping: finishing the frames in flight, then saving the model")
        soon = min(last, state.tick + state.config.ticks_to_top + 1)
        run.pipeline.stop_at(soon)
        return soon

    def _trace_at_start(self, ticks: int) -> None:
        terminal = self._run.presence.terminal

        def done(answer: Answer) -> None:
            (terminal.say if answer.state == "done" else terminal.warn)(f"trace: {answer.text}")

        try:
            if ticks:
                self._steerable.record(ticks, done)
        except SidewaysError as error:
            terminal.warn(f"no trace is recorded: {error}")

    def _finish(self) -> None:
        """Wait for the last checkpoint, probe and trace."""
        run = self._run
        self._checkpointing.finish()
        self._probing.finish()
        run.tracer.finish(_LAST_TRACE)
        run.presence.terminal.end()
