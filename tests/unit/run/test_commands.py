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
