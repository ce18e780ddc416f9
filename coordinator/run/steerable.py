"""Executes commands on a run, between two phases: see commands.py."""

from common.errors import SidewaysError
from common.messages.stage_calls import StageCalls
from coordinator.run.checkpointing import Checkpointing
from coordinator.run.setup.prepared import Prepared
from coordinator.trace.recorder import TraceDone

_IDLE_MS = 100


class SteerableRun:
    """A run between two phases, as a `Steerable`."""

    def __init__(self, run: Prepared, checkpointing: Checkpointing) -> None:
        self._run, self._state, self._checkpointing = run, run.state, checkpointing

    @property
    def over(self) -> bool:
        """Whether all ticks are done."""
        return self._state.over

    @property
    def tick(self) -> int:
        """The next tick."""
        return self._state.tick

    def hold(self, paused: bool) -> None:
        """Note and report that the run is paused or resumed. Raises SidewaysError."""
        self._run.directory.set_paused(paused)
        presence = self._run.presence
        presence.terminal.say(f"{'paused' if paused else 'resumed'} at tick {self.tick}")
        presence.broadcast.state("paused" if paused else "running", "", self.tick)

    def idle(self) -> None:
        """Process reports for a moment, while paused."""
        self._run.pipeline.poll(_IDLE_MS)
        self._run.saver.poll()
        self._run.tracer.poll(self.tick)

    def checkpoint_now(self) -> str:
        """Take a checkpoint and wait until it is written. Returns a message with its location. Raises SidewaysError."""
        if not self._checkpointing.save_at_once():
            raise SidewaysError(f"the checkpoint of tick {self.tick} could not be saved: see the run's own messages")
        return f"saved the checkpoint of tick {self.tick} in {self._run.directory.path}"

    def set_rate(self, rate: float) -> str:
        """Change optimiser.lr from this tick on. Returns a message with the change. Raises SidewaysError.

        A checkpoint is taken before the new rate is saved, so that a resumed run too uses it from this tick on.
        """
        run, state = self._run, self._state
        config = state.config.at_rate(rate)
        saved = self._checkpointing.save_at_once()
        run.directory.save_config(config)
        state.config = config
        run.pipeline.stages.call_all(StageCalls.set_rate, rate)
        run.presence.broadcast.rate_changed(state.tick, rate)
        note = "" if saved else "; the checkpoint could not be saved, so a resumed run uses it from an earlier tick on"
        return f"optimiser.lr is {rate:g} from tick {state.tick} on{note}"

    def record(self, ticks: int, done: TraceDone) -> None:
        """Trace `ticks` ticks; `done` is called with the answer afterwards. Raises SidewaysError."""
        ticks_recorded = self._run.tracer.begin(self.tick, ticks, self._state.total_ticks, done)
        self._run.presence.terminal.say(f"recording {ticks_recorded} for a trace")
