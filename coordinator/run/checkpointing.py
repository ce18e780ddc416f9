"""Decides when a run saves its model and takes checkpoints, and how long it waits for them."""

from common.messages.stage_calls import WRITING
from coordinator.checkpoints.position import Position
from coordinator.run.setup.prepared import Prepared

_STOP_TIMEOUT = 10.0  # seconds to finish writing a checkpoint after a stop; the launcher kills after 30


def position_of(run: Prepared, wait: bool = True) -> Position:
    """The present position of a run. Without `wait`, the slots' places may be those of some ticks ago."""
    state, places, clips = run.state, run.feed.places(wait), run.datasets.fingerprint
    return Position.of(state.config, state.tick, run.start.origin, places, clips, state.seconds)


class Checkpointing:
    """Saves the model and checkpoints between two phases, while no stage runs."""

    def __init__(self, run: Prepared) -> None:
        self._run, self._state = run, run.state

    def next_pause(self) -> int:
        """The next tick at which the training pauses for an evaluation or a checkpoint."""
        state = self._state
        every = [every for every in (state.config.evaluate_every, state.config.checkpoint.every) if every]
        return min([state.total_ticks, *((state.tick // n + 1) * n for n in every)])

    def due(self, every: int) -> bool:
        """Whether something that is due every `every` ticks (0: never), and at the end, is due now."""
        state = self._state
        return state.over or state.ending or (every > 0 and state.tick % every == 0)

    def save_model(self) -> None:
        """Write the whole model. Raises SidewaysError."""
        run, state = self._run, self._state
        tensors, classes = run.pipeline.stages.export(), run.datasets.train.classes
        run.directory.save_model(tensors, state.config, classes, state.tick)
        state.saved_tick = state.tick

    def save(self, worth_waiting: bool) -> None:
        """Take a checkpoint. `worth_waiting`: wait for one that is being written, instead of skipping this one."""
        if worth_waiting:
            self.finish()
        self._run.saver.save(position_of(self._run))

    def save_at_once(self) -> bool:
        """Take a checkpoint and wait until it is written. Returns whether this tick now has one."""
        self.save(worth_waiting=True)
        self.finish()
        return self._run.saver.tick == self._state.tick

    def finish(self) -> None:
        """Wait for the checkpoint that is being written; only a few seconds after a request to stop."""
        stop = self._state.stop
        self._run.saver.finish(lambda: _STOP_TIMEOUT if stop.signal else WRITING, self._run.pipeline.poll)
