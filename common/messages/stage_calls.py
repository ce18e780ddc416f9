"""The calls that the coordinator makes to the stages. common/messages/stage_rpc.py carries them.

`StageCalls` is the one description: a stage worker implements it, and the coordinator names its methods
(`stages.ask_all(StageCalls.train, first)`), so that both sides are checked against the same signatures.
No tensor of the tick's path comes this way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from common.config.settings import Config
from common.partition.balance import BlockCost
from common.rule.clip_sums import Scores
from common.telemetry.spans import Rows

BUILDING = 60.0  # seconds more to time or build a model, which takes its first import of much of torch
COMPILING = 900.0  # seconds more to build a stage that is compiled
WRITING = 1800.0  # seconds for a checkpoint to be written, in the background


@dataclass(frozen=True)
class Plan:
    """All that a stage must know to build itself.

    Attributes:
        classes: of the data.
        split: blocks of each stage.
        planned: ticks of the whole training.
        origin: the tick at which the pipeline is empty.
    """

    config: Config
    classes: int
    split: tuple[int, ...]
    planned: int
    origin: int = 0


@dataclass(frozen=True)
class Addresses:
    """Where a stage listens; empty where it does not.

    Attributes:
        frames, targets: of ZeroMQ sockets.
        metrics: host:port, for Prometheus.
        memory: the listener of common/shared_memory/frame_slots.py, where the coordinator is on this host.
    """

    frames: str
    targets: str
    metrics: str = ""
    memory: str = ""


@dataclass(frozen=True)
class GradientSample:
    """What a stage's gradient probe saw at one frame.

    Attributes:
        weights, gradients: by the whole model's names, on the CPU.
        smoothness: mean over rows that stay in their clip of ‖x(k) - x(k-1)‖ / ‖x(k)‖ of the stage's input; None if
            no row does.
    """

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    smoothness: float | None


@dataclass(frozen=True)
class Handling:
    """How a stage worker handles a call.

    Attributes:
        at_once: in an RPC thread, while the main thread works; else in the main thread, after what came before.
        starts: answered before it is done: the stage reports the end.
        patience: seconds more than the deadline.
    """

    at_once: bool = False
    starts: bool = False
    patience: float = 0.0


_Method = TypeVar("_Method", bound=Callable[..., object])


def _handled(at_once: bool = False, starts: bool = False, patience: float = 0.0) -> Callable[[_Method], _Method]:
    def mark(method: _Method) -> _Method:
        setattr(method, _HANDLING, Handling(at_once, starts, patience))
        return method

    return mark


_HANDLING = "handling"


def handling(name: str) -> Handling:
    """Of the call with this name. Raises AttributeError where there is none."""
    found: Handling = getattr(getattr(StageCalls, name), _HANDLING)
    return found


class StageCalls(ABC):
    """What the coordinator can ask of a stage."""

    @_handled(patience=BUILDING)
    @abstractmethod
    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time every block of the model with the threads and on the device that will do the work (stage 0)."""

    @_handled(patience=BUILDING)
    @abstractmethod
    def time_split(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Milliseconds of this stage of a split, while the others time theirs; None where they would share a core."""

    @_handled(patience=BUILDING)
    @abstractmethod
    def configure(self, plan: Plan) -> Addresses:
        """Build the stage and its edges. Neighbours agree on what passes between them."""

    @_handled(at_once=True)
    @abstractmethod
    def stop_at(self, last: int) -> None:
        """End the training before tick `last`, which lies beyond the current tick of every stage."""

    @_handled(starts=True)
    @abstractmethod
    def train(self, first: int) -> None:
        """Run the ticks from `first` to where `stop_at` says, then report that the phase is done."""

    @_handled(starts=True)
    @abstractmethod
    def evaluate(self, phase: int) -> None:
        """Run a phase's frames through frozen weights until the last, then report that the phase is done."""

    @_handled()
    @abstractmethod
    def scores(self) -> Scores:
        """What the last evaluation found (top stage)."""

    @_handled()
    @abstractmethod
    def set_rate(self, rate: float) -> None:
        """Change optimiser.lr from the next tick on."""

    @_handled(patience=WRITING)
    @abstractmethod
    def restore(self, folder: Path, tick: int, in_flight: bool, optimiser: bool) -> None:
        """Become what the stage was at a checkpoint.

        Args:
            in_flight: also what was under way on the edges; else the pipeline begins empty.
            optimiser: also its state; else it begins anew.
        """

    @_handled()
    @abstractmethod
    def checkpoint(self, folder: Path, tick: int) -> None:
        """Copy the state before `tick`, and begin to write it in the background."""

    @_handled(at_once=True)
    @abstractmethod
    def checkpoint_written(self, seconds: float) -> None:
        """Wait for the checkpoint to be on the disk."""

    @_handled()
    @abstractmethod
    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of this stage's blocks, on the CPU, under the whole model's names."""

    @_handled(at_once=True)
    @abstractmethod
    def probe(self, frame: int) -> None:
        """Look at the pseudo-gradient of a frame that has not been sent yet."""

    @_handled(at_once=True)
    @abstractmethod
    def probe_result(self, seconds: float) -> GradientSample | None:
        """Wait for what the probe saw; None where the training ended before."""

    @_handled()
    @abstractmethod
    def trace(self, first: int, ticks: int) -> None:
        """Record the spans of ticks first … first + ticks - 1."""

    @_handled(at_once=True)
    @abstractmethod
    def trace_rows(self, seconds: float) -> Rows:
        """What was recorded, after the last of those ticks, or after `seconds`."""

    @_handled(at_once=True)
    @abstractmethod
    def clock(self) -> int:
        """This host's clock, in ns."""

    @_handled(at_once=True)
    @abstractmethod
    def expect_coordinator_exit(self) -> None:
        """The coordinator has said why the run ends: its end need not be reported as well."""

    @_handled()
    @abstractmethod
    def quit(self, code: int) -> None:
        """End this process with an exit code."""
