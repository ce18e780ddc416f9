"""Commands that a run executes between two phases."""

import pytest

from common.errors import PeerError, SidewaysError
from common.run_registry.records import Answer, Command
from coordinator.run.commands import CommandQueue
from coordinator.run.stop_request import StopRequest


class Run:
    """A run in which every command fails."""

    over, tick = False, 7

    def __init__(self, error: SidewaysError) -> None:
        self._error = error

    def checkpoint_now(self) -> str:
        raise self._error

    def set_rate(self, rate: float) -> str:
        raise self._error


class Held:
    """A run that can be paused."""

    over, tick = False, 7

    def __init__(self, queue: CommandQueue) -> None:
        self._queue = queue
        self.states: list[bool] = []

    def hold(self, paused: bool) -> None:
        self.states.append(paused)

    def idle(self) -> None:
        self._queue.submit(Command(id="0" * 32, do="resume"))


def test_a_run_that_was_paused_when_it_was_lost_waits_until_it_is_resumed() -> None:
    queue = CommandQueue(StopRequest())
    run = Held(queue)
    queue.hold(run)  # type: ignore[arg-type]
    assert run.states == [True, False]


@pytest.mark.parametrize(("error", "lost"), [(SidewaysError("no room"), False), (PeerError("stage 1 is gone"), True)])
def test_a_failed_command_is_refused_and_a_lost_process_ends_the_run(error: SidewaysError, lost: bool) -> None:
    steering, answers = CommandQueue(StopRequest()), list[Answer]()
    steering.answer = lambda command, answer: answers.append(answer)
    steering.submit(Command(id="0" * 32, do="checkpoint"))
    if lost:
        with pytest.raises(PeerError, match="stage 1"):
            steering.execute(Run(error))  # type: ignore[arg-type]
    else:
        steering.execute(Run(error))  # type: ignore[arg-type]
    assert [(answer.state, answer.text) for answer in answers] == [("refused", str(error))]
