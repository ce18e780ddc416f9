"""Steps: frame batches with their targets."""

import pytest

from common.config.run_file import parse
from common.config.settings import Config
from common.errors import DataError
from common.rule.label_form import ONE_CLASS
from coordinator.video.batch import Batch
from coordinator.video.stream import Places, PlaybackErrors
from coordinator.video.targets import StepStream


class Numbers:
    """A stream whose frames contain their number; slot 1 begins another clip at frame 4."""

    def __init__(self, frames: int, first: int = 0) -> None:
        self.read, self.end, self.errors, self.form = first, frames, PlaybackErrors(), ONE_CLASS

    def fill(self, batch: Batch) -> bool:
        if self.read >= self.end:
            return False
        batch.frames[:] = self.read
        batch.clips[:] = [0, int(self.read >= 4)]
        batch.labels[:] = 0
        self.read += 1
        return True

    def places(self) -> Places:
        return [(0, self.read), (1, self.read)]

    def close(self) -> None:
        pass


def config(task: str, ahead: int = 1) -> Config:
    data = {"train": ".", "slots": 2, "size": 4, "channels": 1}
    return parse({"task": task, "ahead": ahead, "ticks": 1, "stages": 1, "data": data}, "test")


def number(batch: Batch) -> int:
    return int(batch.frames[0, 0, 0, 0])


@pytest.mark.parametrize("task", ["classify", "autoencode"])
@pytest.mark.parametrize("ends", [True, False])
def test_a_frame_is_its_own_target(task: str, ends: bool) -> None:
    stream, seen = StepStream(Numbers(5), config(task), ends), []
    while (step := stream.next()) is not None:
        seen.append((number(step.batch), number(step.target), step.last))
    assert [(frame, target) for frame, target, _ in seen] == [(n, n) for n in range(5)]
    assert [last for *_, last in seen] == [False] * 4 + [ends]  # an endless stream marks no last step


def test_prediction_targets_are_ahead_within_a_clip() -> None:
    stream, seen = StepStream(Numbers(7), config("predict", ahead=2), ends=True), []
    while (step := stream.next()) is not None:
        valid = (step.batch.clips == step.target.clips).tolist()
        seen.append((number(step.batch), number(step.target) if any(valid) else None, valid, step.last))
    both, one, none = [True, True], [True, False], [False, False]
    assert seen == [
        (0, 2, both, False),
        (1, 3, both, False),
        (2, 4, one, False),
        (3, 5, one, False),
        (4, 6, both, False),
        (5, None, none, False),
        (6, None, none, True),
    ]


@pytest.mark.parametrize("task", ["classify", "predict"])
def test_reading_a_step_ahead_changes_nothing(task: str) -> None:
    plain, primed = (StepStream(Numbers(7), config(task), ends=False) for _ in range(2))
    while True:
        primed.prime()
        primed.prime()
        assert primed.places() == plain.places()
        steps = plain.next(), primed.next()
        if steps[0] is None or steps[1] is None:
            assert steps == (None, None)
            return
        assert number(steps[0].batch) == number(steps[1].batch)
        assert number(steps[0].target) == number(steps[1].target)


@pytest.mark.parametrize("task", ["classify", "predict"])
def test_the_last_step_stays_valid_when_the_stream_fails(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers(5)
    stream = StepStream(numbers, config(task), ends=False)
    steps = [stream.next() for _ in range(3)]

    def fail(*arrays: object) -> bool:
        raise DataError("the disk is gone")

    monkeypatch.setattr(numbers, "fill", fail)
    with pytest.raises(DataError):
        stream.next()
    assert stream.last is steps[-1]
    assert stream.last is not None
    assert number(stream.last.batch) == 2
    assert number(stream.last.target) == (3 if task == "predict" else 2)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_stream_of_steps_continues_from_its_places(ahead: int) -> None:
    settings = config("predict", ahead)
    stream = StepStream(Numbers(100), settings, ends=False)
    for expected in range(10):
        assert stream.places() == [(0, expected), (1, expected)]
        stream.next()
    places = stream.places()
    resumed = StepStream(Numbers(100, first=places[0][1]), settings, ends=False)
    for _ in range(10):
        old, new = stream.next(), resumed.next()
        assert old is not None
        assert new is not None
        assert (number(old.batch), number(old.target)) == (number(new.batch), number(new.target))


def test_batches_are_reused() -> None:
    stream = StepStream(Numbers(50), config("predict", 3), ends=False)
    assert len({id(step.batch) for _ in range(50) if (step := stream.next()) is not None}) <= 5


def test_an_empty_stream_gives_no_step() -> None:
    assert StepStream(Numbers(0), config("classify"), ends=True).next() is None
