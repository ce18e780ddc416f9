"""The control channel: the handful of calls that the coordinator makes to the stages, over torch.distributed.rpc.

    measure    stage 0 times the model's blocks             → list of BlockCost
    rehearse   all stages of a split at once, each timed    → milliseconds
    configure  build the stage and its edges                → addresses that the stage listens on
    train      run the ticks up to `last`, then report "done"
    stop_at    change `last`, while the ticks run
    set_rate   change the learning rate, between two phases
    restore    make the stage what it was at a checkpoint
    snapshot   copy the stage's state between two ticks, and write it in the background
    written    wait for that
    trace      record when what happens in some ticks, set between two phases
    traced     wait for that
    clock      this host's clock
    probe      look at one frame's pseudo-gradient
    probed     wait for what was seen
    evaluate   run the frames of a phase through frozen weights, then report "done"
    results    the top stage's sums of an evaluation
    export     the stage's parameters and buffers, under the whole model's names
    quit       end the process

Each call has a deadline. No tensor of the tick's path comes this way. A stage's answer is a value or the sentence of
an error, so that no exception class has to be known on both sides.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.distributed import rpc

from common.config.settings import Config
from common.errors import ConfigError, PeerError, SidewaysError
from common.partition.balance import BlockCost
from common.processes.rpc import stage_name

_POLL = 0.005  # seconds
BUILDING = 60.0  # seconds more to time or build a model, which takes its first import of much of torch
_COMPILING = 900.0  # seconds more to build a stage that is compiled
WRITING = 1800.0  # seconds for a checkpoint to be written, in the background


@dataclass(frozen=True)
class Plan:
    """All that a stage must know to build itself."""

    config: Config
    classes: int
    split: tuple[int, ...]
    planned: int  # ticks of the whole training
    origin: int = 0  # tick at which the pipeline begins empty


@dataclass(frozen=True)
class Addresses:
    """Where a stage listens; empty where it does not."""

    frames: str
    targets: str
    metrics: str = ""  # host:port, for Prometheus
    memory: str = ""  # the listener of common/shared_memory/frame_slots.py, where the coordinator is on this host


@dataclass(frozen=True)
class Scores:
    """An evaluation's sums: per clip the sum over its frames of the softmax, or of the squared error.

    clips, labels, frames: int64 [n]; sums: float64 [n, classes], or [n, 1] for the mean squared error. pictures: of
    tasks without labels, targets and outputs of a few rows, normalised, float [2, rows, channels, height, width].
    """

    clips: Tensor
    labels: Tensor
    frames: Tensor
    sums: Tensor
    pictures: Tensor | None = None


class Service(Protocol):
    """What a stage worker does with each call. Called in RPC threads."""

    def handle(self, method: str, arguments: tuple[Any, ...]) -> Any: ...


_service: Service | None = None


def serve(service: Service) -> None:
    """Answer the coordinator's calls with `service` (stage workers)."""
    global _service
    _service = service


def _answer(method: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    """Runs in the stage worker."""
    if _service is None:
        return "error", f"{method} came before the stage was ready"
    try:
        return "value", _service.handle(method, arguments)
    except ConfigError as error:
        return "config", str(error)
    except Exception as error:
        return "error", str(error) if isinstance(error, SidewaysError) else f"{type(error).__name__}: {error}"


class Stages:
    """The coordinator's handle on all stages."""

    def __init__(self, count: int, deadline: float, meanwhile: Callable[[], None]) -> None:
        """`deadline` in seconds, for each call; `meanwhile` runs while one is waited for, and may raise."""
        self.count, self.deadline, self._meanwhile = count, deadline, meanwhile

    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Block costs, timed in stage 0's process: the device and threads that will do the work."""
        return self._call([0], "measure", config, classes, deadline=self.deadline + BUILDING)[0]

    def rehearse(self, config: Config, classes: int, split: Sequence[int]) -> list[float] | None:
        """Milliseconds of every stage of a split, all running at once. None where some have to share a core or GPU."""
        patience = self.deadline + BUILDING
        found = self._call(range(self.count), "rehearse", config, classes, list(split), deadline=patience)
        return None if None in found else found

    def configure(self, plan: Plan) -> list[Addresses]:
        """Build every stage. Edges are agreed between neighbours; a disagreement names both."""
        patience = self.deadline + BUILDING + (_COMPILING if plan.config.compile else 0.0)
        return self._call(range(self.count), "configure", plan, deadline=patience)

    def train(self, first: int, last: int) -> None:
        """Start ticks first … last - 1 on every stage; each reports "done" afterwards."""
        self._call(range(self.count), "train", first, last)

    def stop_at(self, last: int) -> None:
        """Change where the running training ends. `last` must lie beyond every stage's current tick."""
        self._call(range(self.count), "stop_at", last)

    def set_rate(self, rate: float) -> None:
        """Change optimiser.lr, while no stage runs."""
        self._call(range(self.count), "set_rate", rate)

    def restore(self, folder: Path, tick: int, in_flight: bool, optimiser: bool) -> None:
        """Read a checkpoint; without `in_flight` the pipeline begins empty, without `optimiser` its state does."""
        patience = self.deadline + WRITING  # as long as it may take to write one
        self._call(range(self.count), "restore", folder, tick, in_flight, optimiser, deadline=patience)

    def snapshot(self, folder: Path, tick: int) -> "Pending":
        """Copy every stage's state before `tick`, while none runs. The answer comes when all of it is on the disk."""
        self._call(range(self.count), "snapshot", folder, tick)
        return Pending(self, "written", WRITING)

    def probe(self, frame: int) -> "Pending":
        """Look at a frame that has not been sent yet. The answer is a Finding of each stage, or None."""
        self._call(range(self.count), "probe", frame)
        return Pending(self, "probed", self.deadline)

    def trace(self, first: int, ticks: int) -> None:
        """Record ticks first … first + ticks - 1, while no stage runs."""
        self._call(range(self.count), "trace", first, ticks)

    def traced(self, seconds: float) -> "Pending":
        """The answer is the Rows of each stage, after its last tick that is recorded, or after `seconds`."""
        return Pending(self, "traced", seconds)

    def clock(self, stage: int) -> int:
        """A stage's, in ns."""
        return self.result(stage, "clock", self.ask(stage, "clock", self.deadline), self.deadline)

    def evaluate(self, phase: int) -> None:
        """Start an evaluation phase on every stage; each reports "done" after the frame marked as the last."""
        self._call(range(self.count), "evaluate", phase)

    def results(self) -> Scores:
        """What the last evaluation found, from the top stage."""
        return self._call([self.count - 1], "results")[0]

    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of the whole model, on the CPU, under its own names and in its order."""
        parts = self._call(range(self.count), "export")
        return {name: tensor for part in parts for name, tensor in part.items()}

    def quit(self, code: int = 0) -> None:
        """Let every stage worker end, with this exit code."""
        self._call(range(self.count), "quit", code)

    def expect_exit(self, seconds: float) -> None:
        """The coordinator ends by an error that it has told itself. Waits no longer than this, and raises nothing."""
        with suppress(Exception):  # whoever does not hear it says that the coordinator is gone, which is true
            futures = [self.ask(stage, "hush", seconds) for stage in range(self.count)]
            for future in futures:
                future.wait()

    def ask(self, stage: int, method: str, timeout: float, *arguments: Any) -> Any:
        """Start a call. Returns its future."""
        return rpc.rpc_async(stage_name(stage), _answer, args=(method, arguments), timeout=timeout)

    def _call(self, stages: Sequence[int], method: str, *arguments: Any, deadline: float | None = None) -> list[Any]:
        timeout = deadline or self.deadline
        pending = {stage: self.ask(stage, method, timeout, *arguments) for stage in stages}
        answers: dict[int, Any] = {}
        while pending:  # the first error ends it; each call ends at the deadline at the latest
            for stage in [stage for stage, future in pending.items() if future.done()]:
                answers[stage] = self.result(stage, method, pending.pop(stage), timeout)
            self._meanwhile()
            time.sleep(_POLL)
        return [answers[stage] for stage in stages]

    def result(self, stage: int, method: str, future: Any, timeout: float) -> Any:
        """A call's value. Raises ConfigError or PeerError with the stage's sentence."""
        try:
            kind, value = future.wait()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise PeerError(
                f"stage {stage} did not answer {method} within {timeout:.0f} s or is gone ({reason}): "
                f"look at its own message; raise network.deadline if it was only slow"
            ) from error
        if kind == "value":
            return value
        raise (ConfigError if kind == "config" else PeerError)(f"stage {stage}, {method}: {value}")


class Pending:
    """A call to every stage whose answers are not waited for."""

    def __init__(self, stages: Stages, method: str, timeout: float) -> None:
        """`timeout` in seconds."""
        self._stages, self._method, self._timeout = stages, method, timeout
        self._futures = [stages.ask(stage, method, timeout + 5, timeout) for stage in range(stages.count)]

    def answers(self) -> list[Any]:
        """One a stage; waits for them. Raises ConfigError or PeerError for the first that failed."""
        return [
            self._stages.result(stage, self._method, future, self._timeout)
            for stage, future in enumerate(self._futures)
        ]
