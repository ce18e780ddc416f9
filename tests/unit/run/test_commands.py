"""What is asked of a run between two phases, and a process that is lost meanwhile."""

import pytest

from common.errors import PeerError, SidewaysError
from common.run_registry.records import Answer, Command
from coordinator.run.commands import CommandQueue
from coordinator.run.stop_request import StopRequest


class Run:
    """One that cannot do what it is asked."""

    over, tick = False, 7

    def __init__(self, error: SidewaysError) -> None:
        self._error = error

    def checkpoint_now(self) -> str:
        raise self._error

    def set_rate(self, rate: float) -> str:
        raise self._error


@pytest.mark.parametrize(("error", "lost"), [(SidewaysError("no room"), False), (PeerError("stage 1 is gone"), True)])
def test_a_lost_process_is_told_and_ends_the_run(error: SidewaysError, lost: bool) -> None:
    steering, heard = CommandQueue(StopRequest()), list[Answer]()
    steering.answer = lambda command, answer: heard.append(answer)
    steering.submit(Command(id="0" * 32, do="checkpoint"))
    if lost:
        with pytest.raises(PeerError, match="stage 1"):
            steering.execute(Run(error))  # type: ignore[arg-type]
    else:
        steering.execute(Run(error))  # type: ignore[arg-type]
    assert [(answer.state, answer.text) for answer in heard] == [("refused", str(error))]
