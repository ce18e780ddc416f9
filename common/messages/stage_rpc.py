"""Transports the calls of stage_calls.py over torch.distributed.rpc, each with a deadline.

A stage answers with a value or an error message, so exception classes need not be importable on both sides.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from torch import Tensor
from torch.distributed import rpc

from common.errors import ConfigError, PeerError, SidewaysError
from common.messages.stage_calls import BUILDING, COMPILING, Addresses, Plan, StageCalls, handling
from common.processes.rpc import stage_name

_POLL = 0.005  # seconds
_MARGIN = 5.0  # seconds that an answer may take to arrive

P = ParamSpec("P")
R = TypeVar("R")


class Handler(Protocol):
    """Handles calls in a stage worker, in RPC threads."""

    def handle(self, call: str, *args: Any, **kwargs: Any) -> Any: ...


_handler: Handler | None = None


def serve(handler: Handler) -> None:
    """Answer the coordinator's calls with `handler` (stage workers)."""
    global _handler
    _handler = handler


def _answer(call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any]:
    """Run a call in the stage worker. Returns "value" and the result, or "config" or "error" and a message."""
    if _handler is None:
        return "error", f"received {call} before the stage was ready"
    try:
        return "value", _handler.handle(call, *args, **kwargs)
    except ConfigError as error:
        return "config", str(error)
    except Exception as error:
        return "error", str(error) if isinstance(error, SidewaysError) else f"{type(error).__name__}: {error}"


class Stages:
    """The coordinator's handle on all stages.

    Attributes:
        count: number of stages.
    """

    def __init__(self, count: int, deadline: float, on_wait: Callable[[], None]) -> None:
        """`deadline` of each call, in seconds. `on_wait` runs repeatedly while waiting for answers, and may raise."""
        self.count, self._deadline, self._on_wait = count, deadline, on_wait

    def call(self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call one stage and wait for its answer. Raises ConfigError or PeerError."""
        return self._call([stage], call.__name__, args, kwargs)[0]

    def call_all(self, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call every stage and wait for their answers. Raises ConfigError or PeerError for the first that fails."""
        return self._call(range(self.count), call.__name__, args, kwargs)

    def call_blocking(self, stage: int, call: Callable[[StageCalls], R]) -> R:
        """Call one stage and block until its answer arrives, without `on_wait`. Callable from any thread."""
        name = call.__name__
        return _result(stage, name, self._start(stage, name, (), {}, self._deadline), self._deadline)

    def begin(self, call: Callable[[StageCalls, float], R], seconds: float) -> "Pending[R]":
        """Call every stage without waiting for the answers. `seconds` is the call's argument: how long it may wait."""
        futures = [self._start(stage, call.__name__, (seconds,), {}, seconds + _MARGIN) for stage in range(self.count)]
        return Pending(call.__name__, seconds, futures)

    def configure(self, plan: Plan) -> list[Addresses]:
        """Build every stage. Returns their addresses. Raises ConfigError or PeerError."""
        more = COMPILING if plan.config.compile else 0.0
        return self._call(range(self.count), StageCalls.configure.__name__, (plan,), {}, BUILDING + more)

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of the whole model, on the CPU, with its names and in its order."""
        return {name: tensor for part in self.call_all(StageCalls.export) for name, tensor in part.items()}

    def expect_coordinator_exit(self, seconds: float) -> None:
        """Announce that the coordinator exits with an error that it reports. Waits at most `seconds`; never raises."""
        name = StageCalls.expect_coordinator_exit.__name__
        with suppress(Exception):  # a stage that misses the call reports that the coordinator is gone, which is true
            for future in [self._start(stage, name, (), {}, seconds) for stage in range(self.count)]:
                future.wait()

    def _call(
        self, stages: Sequence[int], call: str, args: Any, kwargs: Any, extra_time: float | None = None
    ) -> list[Any]:
        timeout = self._deadline + (handling(call).extra_time if extra_time is None else extra_time)
        pending = {stage: self._start(stage, call, args, kwargs, timeout) for stage in stages}
        answers: dict[int, Any] = {}
        while pending:  # the first error ends the loop; each call ends by its deadline
            for stage in [stage for stage, future in pending.items() if future.done()]:
                answers[stage] = _result(stage, call, pending.pop(stage), timeout)
            self._on_wait()
            time.sleep(_POLL)
        return [answers[stage] for stage in stages]

    def _start(self, stage: int, call: str, args: Any, kwargs: Any, timeout: float) -> Any:
        return rpc.rpc_async(stage_name(stage), _answer, args=(call, args, kwargs), timeout=timeout)


@dataclass(frozen=True)
class Pending(Generic[R]):
    """A call to every stage whose answers are still pending."""

    call: str
    seconds: float
    futures: list[Any]

    def answers(self) -> list[R]:
        """Wait for the answers, one per stage. Raises ConfigError or PeerError for the first that failed."""
        return [_result(stage, self.call, future, self.seconds) for stage, future in enumerate(self.futures)]


def _result(stage: int, call: str, future: Any, timeout: float) -> Any:
    """Wait for a call's value. Raises ConfigError or PeerError with the stage's message."""
    try:
        kind, value = future.wait()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerError(
            f"stage {stage} did not answer {call} within {timeout:.0f} s or is gone ({reason}): "
            f"see its own error, or raise network.deadline if it was only slow"
        ) from error
    if kind == "value":
        return value
    raise (ConfigError if kind == "config" else PeerError)(f"stage {stage}, {call}: {value}")
