"""Which processes form a run."""

import pytest

from common.errors import SidewaysError
from common.processes.joining import check
from common.processes.membership import Member


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((Member("stage"), Member("stage")), "2 processes joined, 0 of them as coordinator"),
        ((Member("coordinator"), Member("coordinator"), Member("stage")), "3 processes joined, 2 of them"),
        ((Member("coordinator"),), "1 processes joined"),
        ((Member("coordinator", "10.0.0.1"), Member("stage")), "process 1 has the address 127.0.0.1"),
    ],
)
def test_invalid_groups_of_processes_are_refused(members: tuple[Member, ...], message: str) -> None:
    with pytest.raises(SidewaysError, match=message):
        check(members)
