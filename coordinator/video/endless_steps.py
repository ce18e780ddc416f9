"""The steps of a training, which do not end: without more frames the last step comes again.

The stages end at a tick that all of them can reach, and need frames up to there.
"""

from common.config.settings import Config
from common.errors import DataError
from coordinator.video.stream import Places, Stream
from coordinator.video.targets import Step, StepStream


class EndlessSteps:
    """Reads steps from a stream. Attributes: error, why there are no more; None if there are."""

    def __init__(self, stream: Stream, config: Config) -> None:
        """`config`: with as many slots as the stream has."""
        self._steps = StepStream(stream, config, ends=False)
        self.error: DataError | None = None

    def prime(self) -> None:
        """Read the next step in advance, before any stage waits for it, as this may take long."""
        try:
            if self.error is None:
                self._steps.prime()
        except DataError as error:
            self.error = error

    def next(self, tick: int) -> Step:
        """The next step, that of `tick`; after an error the last one again. Raises DataError if there was none."""
        if self.error is None:
            try:
                step = self._steps.next()
                if step is not None:
                    return step
                self.error = DataError(f"tick {tick}: the frames have run out")
            except DataError as error:
                self.error = error
        if self._steps.last is None:
            raise self.error
        return self._steps.last

    def places(self) -> Places:
        """The place of every slot before the next step."""
        return self._steps.places()
