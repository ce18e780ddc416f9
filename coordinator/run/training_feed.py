"""What feeds the training's ticks: the coordinator itself, or readers (readers.py)."""

from typing import Protocol

from common.config.settings import Config
from common.errors import DataError
from common.messages.frame_envelope import TRAINING
from coordinator.run.pipeline import Pipeline
from coordinator.video.endless_steps import EndlessSteps
from coordinator.video.stream import Places, Stream
from coordinator.video.targets import Step


class TrainingFeed(Protocol):
    """Feeds one step a tick. Attributes: error, why there are no more frames; the last ones are then fed again."""

    @property
    def error(self) -> DataError | None: ...

    def prime(self) -> None:
        """Wait until the next step is decoded, before any stage waits for it. Without any, `error` is set."""

    def read(self, tick: int) -> Step | None:
        """The step of a tick; None if it is not read in this process."""

    def push(self, tick: int) -> None:
        """Feed the step of this tick, or let it be fed. Raises SidewaysError."""

    def places(self, wait: bool = True) -> Places:
        """The place of every slot before the next step. Without `wait`, that of some steps ago may do."""

    def close(self) -> None:
        """Stop reading."""


class OwnFeed:
    """Frames that this process reads and feeds. A `TrainingFeed`."""

    def __init__(self, stream: Stream, config: Config, pipeline: Pipeline) -> None:
        self._stream, self._steps, self._pipeline = stream, EndlessSteps(stream, config), pipeline
        self._step: Step | None = None

    @property
    def error(self) -> DataError | None:
        """Why there are no more frames."""
        return self._steps.error

    def prime(self) -> None:
        """Read the next step in advance."""
        self._steps.prime()

    def read(self, tick: int) -> Step:
        """The step of a tick. Raises DataError if there was never one."""
        self._step = self._steps.next(tick)
        return self._step

    def push(self, tick: int) -> None:
        """Send it to the stages."""
        assert self._step is not None, "call read first"
        self._pipeline.push(TRAINING, tick, self._step)

    def places(self, wait: bool = True) -> Places:
        """The place of every slot before the next step."""
        return self._steps.places()

    def close(self) -> None:
        """Stop reading."""
        self._stream.close()
