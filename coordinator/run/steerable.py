"""A run as commands.py steers it, between two phases."""

from common.errors import SidewaysError
from common.messages.stage_calls import StageCalls
from coordinator.run.checkpointing import Checkpointing
from coordinator.run.setup import Prepared
from coordinator.trace.recorder import TraceDone

_IDLE_MS = 100


class SteerableRun:
    """A run between two phases."""

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
        """Show that it is paused, or goes on."""
        presence = self._run.presence
        presence.terminal.say(f"{'paused at' if paused else 'going on from'} tick {self.tick}, as asked")
        presence.broadcast.state("paused" if paused else "running", "", self.tick)

    def idle(self) -> None:
        """Take in reports for a moment, while paused."""
        self._run.pipeline.poll(_IDLE_MS)
        self._run.saver.poll()
        self._run.tracer.poll(self.tick)

    def checkpoint_now(self) -> str:
        """Take a checkpoint and wait until it is written. Returns where it is. Raises SidewaysError."""
        if not self._checkpointing.save_at_once():
            raise SidewaysError(f"the checkpoint of tick {self.tick} could not be kept: see the run's own messages")
        return f"kept the checkpoint of tick {self.tick} in {self._run.directory.path}"

    def set_rate(self, rate: float) -> str:
        """Change optimiser.lr from this tick on. Returns what was done. Raises SidewaysError.

        A checkpoint is taken before the new rate is saved, so that a resumed run has it from this tick on, too.
        """
        run, state = self._run, self._state
        config = state.config.at_rate(rate)
        kept = self._checkpointing.save_at_once()
        run.directory.save_config(config)
        state.config = config
        run.pipeline.stages.call_all(StageCalls.set_rate, rate)
        run.presence.broadcast.rate_changed(state.tick, rate)
        unkept = "" if kept else "; no checkpoint of it could be kept, so what is resumed has it from an earlier one on"
        return f"optimiser.lr is {rate:g} from tick {state.tick} on{unkept}"

    def record(self, ticks: int, done: TraceDone) -> None:
        """Trace some ticks to come; `done` gets the answer afterwards. Raises SidewaysError."""
        ticks_recorded = self._run.tracer.begin(self.tick, ticks, self._state.planned, done)
        self._run.presence.terminal.say(f"recording {ticks_recorded} for a trace, as asked")
