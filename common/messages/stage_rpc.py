"""Transports the calls of stage_calls.py over torch.distributed.rpc, each with a deadline.

A stage answers with a value or an error message, so exception classes need not be importable on both sides.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from torch import Tensor
from torch.distributed import rpc

from common.errors import ConfigError, PeerError, SidewaysError, first_line
from common.messages.stage_calls import BUILDING, COMPILING, Addresses, Plan, StageCalls, handling
from common.processes.membership import Membership
from common.processes.names import worker_name, worker_text
from common.processes.user_errors import describe_error

_POLL = 0.005  # seconds
_MARGIN = 5.0  # seconds that an answer may take to arrive

P = ParamSpec("P")
R = TypeVar("R")


class Handler(Protocol):
    """Handles calls in a stage worker, in RPC threads."""

    def handle(self, call: str, stages: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Answer a call to some of the worker's stages: a value for each."""


_handler: Handler | None = None


def serve(handler: Handler) -> None:
    """Answer the coordinator's calls with `handler` (stage workers)."""
    global _handler
    _handler = handler


def _answer(call: str, stages: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Any]:
    """Run a call in the stage worker. Returns "value" and the results, or "config" or "error" and a message."""
    if _handler is None:
        return "error", f"received {call} before the stage was ready"
    try:
        return "value", _handler.handle(call, stages, args, kwargs)
    except ConfigError as error:
        return "config", str(error)
    except Exception as error:
        return "error", str(error) if isinstance(error, SidewaysError) else describe_error(error)


def start_call(
    process: str,
    call: str,
    args: tuple[Any, ...],
    timeout: float,
    stages: Sequence[int] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Call a process by its RPC name, or some stages of a worker, without waiting. Returns a future for `result_of`."""
    return rpc.rpc_async(process, _answer, args=(call, list(stages), args, dict(kwargs)), timeout=timeout)


class Stages:
    """The coordinator's handle on all stages, of all replicas. Here stages are numbered across replicas.

    Attributes:
        count: number of stages of a replica.
        replicas: number of replicas.
    """

    def __init__(self, me: Membership, deadline: float, on_wait: Callable[[], None]) -> None:
        """`deadline` of each call, in seconds. `on_wait` runs repeatedly while waiting for answers, and may raise."""
        self.count, self._deadline, self._on_wait, self.replicas = me.stages, deadline, on_wait, me.replicas
        self._worker_of = me.worker_of

    def call(self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call one stage of replica 0, or any by its number, and wait for its answer.

        Raises:
            ConfigError, PeerError: it failed.
        """
        return self._call([stage], call.__name__, args, kwargs)[0]

    def call_each(
        self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Call one stage of every replica and wait for their answers. Raises ConfigError or PeerError."""
        return self._call(range(stage, self._all, self.count), call.__name__, args, kwargs)

    def call_all(self, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call every stage and wait for their answers, replica by replica.

        Raises:
            ConfigError, PeerError: of the first that fails.
        """
        return self._call(range(self._all), call.__name__, args, kwargs)

    def call_blocking(self, stage: int, call: Callable[[StageCalls], R]) -> R:
        """Call one stage of replica 0 and block until its answer arrives, without `on_wait`. For any thread."""
        name = call.__name__
        future = self._start([stage], name, (), {}, self._deadline)
        [answer] = result_of(self._text(stage), name, future, self._deadline)
        return cast(R, answer)

    def begin(self, call: Callable[[StageCalls, float], R], seconds: float) -> "Pending[R]":
        """Call every stage without waiting for the answers. `seconds` is the call's argument: how long it may wait."""
        futures = {
            self._text(own[0]): self._start(own, call.__name__, (seconds,), {}, seconds + _MARGIN)
            for own in self._by_process(range(self._all))
        }
        return Pending(call.__name__, seconds, futures)

    def begin_one(
        self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> "Pending[R]":
        """Call one stage of replica 0 without waiting for the answer."""
        name = call.__name__
        future = self._start([stage], name, args, kwargs, self._deadline)
        return Pending(name, self._deadline, {self._text(stage): future})

    def configure(self, plan: Plan) -> list[Addresses]:
        """Build every stage. Returns their addresses. Raises ConfigError or PeerError."""
        more = COMPILING if plan.config.compile else 0.0
        return self._call(range(self._all), StageCalls.configure.__name__, (plan,), {}, BUILDING + more)

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of the whole model, on the CPU, with its names and in its order."""
        parts = self._call(range(self.count), StageCalls.export.__name__, (), {})
        return {name: tensor for part in parts for name, tensor in part.items()}

    def expect_coordinator_exit(self, seconds: float) -> None:
        """Announce that the coordinator exits with an error that it reports. Waits at most `seconds`; never raises."""
        name = StageCalls.expect_coordinator_exit.__name__
        with suppress(Exception):  # a stage that misses the call reports that the coordinator is gone, which is true
            for future in [self._start(own, name, (), {}, seconds) for own in self._by_process(range(self._all))]:
                future.wait()

    @property
    def _all(self) -> int:
        return self.count * self.replicas

    def _by_process(self, numbers: Sequence[int]) -> list[list[int]]:
        """The same stages, those that one process holds together."""
        return [list(own) for _, own in groupby(numbers, self._worker_of)]

    def _text(self, number: int) -> str:
        return worker_text(number, self.count, self.replicas)

    def _call(
        self, numbers: Sequence[int], call: str, args: Any, kwargs: Any, extra_time: float | None = None
    ) -> list[Any]:
        timeout = self._deadline + (handling(call).extra_time if extra_time is None else extra_time)
        pending = {own[0]: self._start(own, call, args, kwargs, timeout) for own in self._by_process(numbers)}
        answers: dict[int, list[Any]] = {}
        while pending:  # the first error ends the loop; each call ends by its deadline
            for first in [first for first, future in pending.items() if future.done()]:
                answers[first] = result_of(self._text(first), call, pending.pop(first), timeout)
            self._on_wait()
            time.sleep(_POLL)
        return [answer for first in sorted(answers) for answer in answers[first]]

    def _start(self, numbers: Sequence[int], call: str, args: Any, kwargs: Any, timeout: float) -> Any:
        """Call some stages of one process."""
        stages = [number % self.count for number in numbers]
        return start_call(worker_name(self._worker_of(numbers[0])), call, args, timeout, stages, kwargs)


@dataclass(frozen=True)
class Pending(Generic[R]):
    """A call to one stage or to every one, whose answers are still pending.

    Attributes:
        futures: of each process, by what its first stage is called in messages.
    """

    call: str
    seconds: float
    futures: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether `answers` returns, or raises, at once."""
        return all(future.done() for future in self.futures.values())

    def answers(self) -> list[R]:
        """Wait for the answers, replica by replica. Raises ConfigError or PeerError for the first that failed."""
        answers = (result_of(stage, self.call, future, self.seconds) for stage, future in self.futures.items())
        return [answer for own in answers for answer in own]


def result_of(who: str, call: str, future: Any, timeout: float) -> list[Any]:
    """Wait for a call's values. Raises ConfigError or PeerError with the other process's message."""
    value: Any
    try:
        kind, value = future.wait()
    except RuntimeError as error:
        reason = first_line(error)
        raise PeerError(
            f"{who} did not answer {call} within {timeout:.0f} s or is gone ({reason}): "
            f"see its own error, or raise network.deadline if it was only slow"
        ) from error
    if kind == "value":
        return list(value)
    raise (ConfigError if kind == "config" else PeerError)(f"{who}, {call}: {value}")
