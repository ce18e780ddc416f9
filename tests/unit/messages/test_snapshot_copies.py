"""Where a process leaves copies of its snapshots, and when."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from common.messages import snapshot_copies
from common.messages.snapshot_copies import Copies, keeper_of
from common.processes.membership import Membership
from common.processes.names import worker_name
from tests.support.members import coordinator, stage

DATA = torch.zeros(2, dtype=torch.uint8)


def on_hosts(me: Membership, hosts: str) -> Membership:
    """The same, with the coordinator and the stages on these hosts, each a letter."""
    members = (replace(member, hostname=host) for member, host in zip(me.members, hosts, strict=True))
    return replace(me, members=tuple(members))


@pytest.mark.parametrize(
    ("hosts", "keepers"),
    [("aaaa", [None] * 4), ("aabb", [1, 1, 0, 0]), ("abcd", [0, 1, 2, 0]), ("aaba", [1, 1, 2, 1])],
)
def test_the_next_worker_on_another_host_keeps_the_copies(hosts: str, keepers: list[int | None]) -> None:
    processes = [coordinator(3), *(stage(number, 3) for number in range(3))]
    found = [keeper_of(on_hosts(me, hosts)) for me in processes]
    assert found == [None if keeper is None else (keeper, keeper) for keeper in keepers]


class Call:
    def __init__(self, call: str, arguments: tuple[Any, ...]) -> None:
        self.call, self.arguments = call, arguments
        self.answer: tuple[str, Any] = ("value", None)
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def wait(self) -> tuple[str, Any]:
        return self.answer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    made: list[Call] = []

    def start(process: str, call: str, arguments: Any, timeout: float, stages: Any) -> Call:
        made.append(Call(call, (process, *arguments)))
        return made[-1]

    monkeypatch.setattr(snapshot_copies, "start_call", start)
    return made


def test_a_copy_is_only_sent_when_the_last_one_has_arrived(calls: list[Call], capsys: Any) -> None:
    copies = Copies(on_hosts(stage(1, 2), "aab"))
    copies.send("stage1-0", 10, DATA, 1)
    copies.send("stage1-0", 20, DATA, 1)
    calls[0].is_done, calls[0].answer = True, ("error", "OSError: no space")
    copies.send("stage1-0", 30, DATA, 1)
    assert [(call.arguments[0], call.arguments[2]) for call in calls] == [(worker_name(0), 10), (worker_name(0), 30)]
    assert "OSError: no space; if this host is lost, more ticks are" in capsys.readouterr().err
    copies.forget("stage1-0")
    assert (calls[-1].call, calls[-1].arguments) == ("forget_copies", (worker_name(0), "stage1-0"))


def test_without_another_host_nothing_is_sent(calls: list[Call]) -> None:
    copies = Copies(stage(1, 2))
    copies.send("stage1-0", 10, DATA, 1)
    copies.forget("stage1-0")
    assert calls == []
