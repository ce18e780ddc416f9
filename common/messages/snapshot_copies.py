"""Copies of a process's snapshots on another host, so that its own may be gone for good."""

from contextlib import suppress
from typing import Any

from torch import Tensor

from common.errors import SidewaysError
from common.messages.stage_calls import WRITING, StageCalls
from common.messages.stage_rpc import result_of, start_call
from common.processes.membership import Membership
from common.processes.names import worker_name
from common.processes.output import print_error

_FORGETTING = 5.0  # seconds


def keeper_of(me: Membership) -> tuple[int, int] | None:
    """The stage that keeps this one's copies, as its worker and its number there: the next one on another host.

    None if there is none. It also says who keeps the coordinator's.
    """
    count = me.stages * me.replicas
    for step in range(1, count + 1):
        number = (me.number + step) % count
        replica, stage = divmod(number, me.stages)
        if me.replica(replica).stage_member(stage).host != me.own.host:
            return me.worker_of(number), stage
    return None


class Copies:
    """Sends copies in the background, one at a time. Without another host it sends none."""

    def __init__(self, me: Membership) -> None:
        """Of this process, or of the one of its stages that `me` concerns."""
        self._keeper, self._failed = keeper_of(me), False
        self._sending: Any = None

    def send(self, name: str, tick: int, data: Tensor, keep: int) -> None:
        """Start to send a snapshot, uint8, unless the last one is still on its way.

        `keep`: how many of this name the other host keeps.
        """
        if self._keeper is None or not self._is_free():
            return
        self._sending = self._start(StageCalls.keep_copy.__name__, (name, tick, data, keep), WRITING)

    def forget(self, name: str) -> None:
        """Let the other host forget the copies of this name, soon."""
        if self._keeper is not None:
            with suppress(Exception):  # a worker that is lost has lost them too
                self._start(StageCalls.forget_copies.__name__, (name,), _FORGETTING).wait()

    def _start(self, call: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        assert self._keeper is not None
        process, stage = self._keeper
        return start_call(worker_name(process), call, arguments, timeout, [stage])

    def _is_free(self) -> bool:
        if self._sending is None:
            return True
        if not self._sending.done():
            return False
        try:
            result_of("the stage that keeps copies", StageCalls.keep_copy.__name__, self._sending, WRITING)
        except SidewaysError as error:
            if not self._failed:
                print_error(f"warning: {error}; if this host is lost, more ticks are")
            self._failed = True
        return True
