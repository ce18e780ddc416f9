"""The state of a training: everything that changes while it runs."""

from dataclasses import dataclass

from common.config.settings import Config
from common.errors import DataError
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.run.stop_request import StopRequest


@dataclass
class RunState:
    """The state of one training.

    Attributes:
        config: as it is now; the learning rate may change.
        total_ticks: ticks of the whole training.
        tick: the next tick, which is also the number of the next training frame.
        seconds: of training so far.
        saved_tick: tick of the saved model; 0 if there is none.
        data_error: why there are no more frames; None if there are. With an error the run saves its model and ends.
        evaluation, evaluated_tick: the last evaluation; the saved model may be older or newer.
    """

    config: Config
    stop: StopRequest
    total_ticks: int
    tick: int = 0
    seconds: float = 0.0
    saved_tick: int = 0
    data_error: DataError | None = None
    evaluation: Evaluation | None = None
    evaluated_tick: int | None = None

    @property
    def over(self) -> bool:
        """Whether all ticks are done."""
        return self.tick >= self.total_ticks

    @property
    def complete(self) -> bool:
        """Whether all ticks are done, and the model was evaluated after the last one if there are clips for that."""
        return self.over and (self.config.data.val is None or self.evaluated_tick == self.tick)

    @property
    def ending(self) -> bool:
        """Whether the run must end before its last planned tick."""
        return bool(self.stop.signal) or self.data_error is not None

    @property
    def done(self) -> bool:
        """Whether the run has ended for good and must not be restarted."""
        return self.complete or self.stop.final
