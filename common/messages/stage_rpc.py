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
from common.processes.names import worker_name, worker_text

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
    """The coordinator's handle on all stages, of all replicas.

    Attributes:
        count: number of stages of a replica.
        replicas: number of replicas.
    """

    def __init__(self, count: int, deadline: float, on_wait: Callable[[], None], replicas: int = 1) -> None:
        """`deadline` of each call, in seconds. `on_wait` runs repeatedly while waiting for answers, and may raise."""
        self.count, self._deadline, self._on_wait, self.replicas = count, deadline, on_wait, replicas

    def call(self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call one stage of replica 0 and wait for its answer. Raises ConfigError or PeerError."""
        return self._call([stage], call.__name__, args, kwargs)[0]

    def call_each(
        self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """Call one stage of every replica and wait for their answers. Raises ConfigError or PeerError."""
        return self._call(range(stage, self._workers, self.count), call.__name__, args, kwargs)

    def call_all(self, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs) -> list[R]:
        """Call every stage and wait for their answers, replica by replica.

        Raises:
            ConfigError, PeerError: of the first that fails.
        """
        return self._call(range(self._workers), call.__name__, args, kwargs)

    def call_blocking(self, stage: int, call: Callable[[StageCalls], R]) -> R:
        """Call one stage of replica 0 and block until its answer arrives, without `on_wait`. For any thread."""
        name = call.__name__
        return _result(self._text(stage), name, self._start(stage, name, (), {}, self._deadline), self._deadline)

    def begin(self, call: Callable[[StageCalls, float], R], seconds: float) -> "Pending[R]":
        """Call every stage without waiting for the answers. `seconds` is the call's argument: how long it may wait."""
        futures = {
            self._text(worker): self._start(worker, call.__name__, (seconds,), {}, seconds + _MARGIN)
            for worker in range(self._workers)
        }
        return Pending(call.__name__, seconds, futures)

    def begin_one(
        self, stage: int, call: Callable[Concatenate[StageCalls, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> "Pending[R]":
        """Call one stage of replica 0 without waiting for the answer."""
        name = call.__name__
        future = self._start(stage, name, args, kwargs, self._deadline)
        return Pending(name, self._deadline, {self._text(stage): future})

    def configure(self, plan: Plan) -> list[Addresses]:
        """Build every stage. Returns their addresses. Raises ConfigError or PeerError."""
        more = COMPILING if plan.config.compile else 0.0
        return self._call(range(self._workers), StageCalls.configure.__name__, (plan,), {}, BUILDING + more)

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of the whole model, on the CPU, with its names and in its order."""
        parts = self._call(range(self.count), StageCalls.export.__name__, (), {})
        return {name: tensor for part in parts for name, tensor in part.items()}

    def expect_coordinator_exit(self, seconds: float) -> None:
        """Announce that the coordinator exits with an error that it reports. Waits at most `seconds`; never raises."""
        name = StageCalls.expect_coordinator_exit.__name__
        with suppress(Exception):  # a stage that misses the call reports that the coordinator is gone, which is true
            for future in [self._start(worker, name, (), {}, seconds) for worker in range(self._workers)]:
                future.wait()

    @property
    def _workers(self) -> int:
        return self.count * self.replicas

    def _text(self, worker: int) -> str:
        return worker_text(worker, self.count, self.replicas)

    def _call(
        self, workers: Sequence[int], call: str, args: Any, kwargs: Any, extra_time: float | None = None
    ) -> list[Any]:
        timeout = self._deadline + (handling(call).extra_time if extra_time is None else extra_time)
        pending = {worker: self._start(worker, call, args, kwargs, timeout) for worker in workers}
        answers: dict[int, Any] = {}
        while pending:  # the first error ends the loop; each call ends by its deadline
            for worker in [worker for worker, future in pending.items() if future.done()]:
                answers[worker] = _result(self._text(worker), call, pending.pop(worker), timeout)
            self._on_wait()
            time.sleep(_POLL)
        return [answers[worker] for worker in workers]

    def _start(self, worker: int, call: str, args: Any, kwargs: Any, timeout: float) -> Any:
        return rpc.rpc_async(worker_name(worker), _answer, args=(call, args, kwargs), timeout=timeout)


@dataclass(frozen=True)
class Pending(Generic[R]):
    """A call to one stage or to every one, whose answers are still pending.

    Attributes:
        futures: by what the stage is called in messages.
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
        return [_result(stage, self.call, future, self.seconds) for stage, future in self.futures.items()]


def _result(stage: str, call: str, future: Any, timeout: float) -> Any:
    """Wait for a call's value. Raises ConfigError or PeerError with the stage's message."""
    try:
        kind, value = future.wait()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerError(
            f"{stage} did not answer {call} within {timeout:.0f} s or is gone ({reason}): "
            f"see its own error, or raise network.deadline if it was only slow"
        ) from error
    if kind == "value":
        return value
    raise (ConfigError if kind == "config" else PeerError)(f"{stage}, {call}: {value}")
