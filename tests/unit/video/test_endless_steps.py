"""Steps of a training whose data end: the last step again, and the reason."""

from pathlib import Path

import pytest

from common.errors import DataError
from common.rule.label_form import ONE_CLASS
from coordinator.video.batch import Batch
from coordinator.video.endless_steps import EndlessSteps
from coordinator.video.stream import Places, PlaybackErrors
from tests.support.settings import config_of


class Failing:
    """A stream of so many frames, then of an error."""

    form = ONE_CLASS

    def __init__(self, frames: int) -> None:
        self.errors, self._frames, self._played = PlaybackErrors(), frames, 0

    def fill(self, batch: Batch) -> bool:
        if self._played == self._frames:
            raise DataError("the disk is gone")
        self._played += 1
        batch.frames[:], batch.clips[:], batch.labels[:] = self._played, 0, 0
        return True

    def places(self) -> Places:
        return [(0, self._played)]

    def close(self) -> None: ...


def test_after_an_error_the_last_step_comes_again() -> None:
    steps = EndlessSteps(Failing(2), config_of(Path(), data__slots=1))
    steps.prime()
    assert [int(steps.next(tick).batch.frames.max()) for tick in range(2)] == [1, 2]
    assert steps.error is None
    assert [int(steps.next(tick).batch.frames.max()) for tick in range(2, 4)] == [2, 2]
    assert str(steps.error) == "the disk is gone"
    assert steps.places() == [(0, 2)]


def test_without_a_single_frame_there_is_no_step() -> None:
    steps = EndlessSteps(Failing(0), config_of(Path(), data__slots=1))
    steps.prime()
    assert str(steps.error) == "the disk is gone"
    with pytest.raises(DataError, match="the disk is gone"):
        steps.next(0)
