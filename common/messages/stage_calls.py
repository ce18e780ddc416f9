"""The calls that the coordinator makes to the stages. common/messages/stage_rpc.py transports them.

`StageCalls` is the single interface. The coordinator refers to its methods (`stages.call_all(StageCalls.train, first)`)
and so its calls are type-checked; a test compares the signatures of those that answer them. No tensors of the hot path
are sent this way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from torch import Tensor

from common.config.settings import Config
from common.messages.restorable import Restorable
from common.messages.snapshot import Kept, Snapshot
from common.partition.balance import BlockCost
from common.rule.clip_sums import Scores
from common.telemetry.spans import Rows

BUILDING = 60.0  # extra seconds to time or build a model: the first time imports much of torch
COMPILING = 900.0  # extra seconds to build a compiled stage
WRITING = 1800.0  # seconds for a checkpoint to be written in the background


@dataclass(frozen=True)
class Plan:
    """Everything that a stage needs to build itself.

    Attributes:
        classes: number of classes of the data.
        split: number of blocks of each stage.
        total_ticks: ticks of the whole training.
        origin: the tick at which the pipeline starts empty.
    """

    config: Config
    classes: int
    split: tuple[int, ...]
    total_ticks: int
    origin: int = 0


@dataclass(frozen=True)
class Addresses:
    """The addresses at which a stage listens; empty strings where it does not.

    Attributes:
        frames, targets: ZeroMQ endpoints.
        metrics: host:port, for Prometheus.
        memory: name of the listener for shared frames (common/shared_memory/shared_frames.py), if the coordinator is
            on the same host.
    """

    frames: str
    targets: str
    metrics: str = ""
    memory: str = ""


@dataclass(frozen=True)
class GradientSample:
    """What a stage's gradient probe measured at one frame.

    Attributes:
        weights, gradients: keyed by the whole model's parameter names, on the CPU.
        smoothness: mean of ‖x(k) - x(k-1)‖ / ‖x(k)‖ of the stage's input, over the rows that stay in the same clip;
            None if no row does.
        memories: of the stage's blocks before that frame (common/rule/memories.py), on the CPU.
    """

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    smoothness: float | None
    memories: dict[str, Tensor]


@dataclass(frozen=True)
class OutputSample:
    """What the top stage gave for some rows of one frame batch.

    Attributes:
        rows: float32 on the CPU: [rows, classes or numbers], or [rows, channels, height, width], where only every so
            many-th pixel was asked for.
    """

    frame: int
    rows: Tensor


@dataclass(frozen=True)
class Handling:
    """How a stage worker handles a call.

    Attributes:
        in_rpc_thread: run in an RPC thread while the main thread works; otherwise queued for the main thread.
        returns_early: return before the work is done; the stage reports its end.
        together: for all stages of the worker at once.
        extra_time: seconds added to the deadline.
    """

    in_rpc_thread: bool = False
    returns_early: bool = False
    together: bool = False
    extra_time: float = 0.0


_Method = TypeVar("_Method", bound=Callable[..., object])


def _handled(
    in_rpc_thread: bool = False, returns_early: bool = False, together: bool = False, extra_time: float = 0.0
) -> Callable[[_Method], _Method]:
    def mark(method: _Method) -> _Method:
        setattr(method, _HANDLING, Handling(in_rpc_thread, returns_early, together, extra_time))
        return method

    return mark


_HANDLING = "handling"


def handling(name: str) -> Handling:
    """How the call with this name is handled. Raises AttributeError if there is no such call."""
    found: Handling = getattr(getattr(StageCalls, name), _HANDLING)
    return found


class StageCalls(Protocol):
    """The calls that a stage worker answers, of all its stages together (`Worker`) or of one (`StageService`)."""

    @_handled(extra_time=BUILDING)
    def measure(self, config: Config, classes: int) -> list[BlockCost]:
        """Time every block of the model, with the threads and the device that training will use (stage 0)."""

    @_handled(extra_time=BUILDING)
    def time_split(self, config: Config, classes: int, split: list[int]) -> float | None:
        """Time this stage of a split, in ms, while the others time theirs; None if some would share a core or GPU."""

    @_handled(together=True, extra_time=2 * BUILDING)
    def link_delay(self, config: Config, classes: int, split: list[int], tick: float) -> float:
        """Measure the one-way time of packets to the stage above, in seconds; 0 for the top stage and on one host.

        `tick`: the seconds from one packet to the next.

        Every stage must do it at once.
        """

    @_handled(together=True, extra_time=BUILDING)
    def configure(self, plan: Plan) -> Addresses:
        """Build the stage and its edges. Neighbours agree on the shapes and dtypes of the tensors between them."""

    @_handled(in_rpc_thread=True)
    def stop_at(self, last: int) -> None:
        """End the training before tick `last`, which must be after the current tick of every stage."""

    @_handled(together=True, returns_early=True)
    def train(self, first: int) -> None:
        """Run the ticks from `first` to the end set by `stop_at`, then report that the phase is done."""

    @_handled(together=True, returns_early=True)
    def evaluate(self, phase: int) -> None:
        """Run all frames of an evaluation phase with frozen weights, then report that the phase is done."""

    @_handled()
    def scores(self) -> Scores:
        """The result of the last evaluation (top stage)."""

    @_handled()
    def replays_graphs(self) -> bool:
        """Whether this stage's ticks are replays of graphs by now (graph)."""

    @_handled()
    def set_rate(self, rate: float) -> None:
        """Change optimiser.lr, effective from the next tick."""

    @_handled(extra_time=WRITING)
    def restore(self, folder: Path, tick: int, what: Restorable) -> None:
        """Restore the stage from a checkpoint."""

    @_handled()
    def use_snapshot_folder(self, folder: Path) -> Kept:
        """Keep snapshots in this folder of the stage's host from now on. Returns what is there."""

    @_handled(extra_time=WRITING)
    def read_snapshot(self, source: Snapshot) -> Tensor:
        """A snapshot that is on the stage's host, uint8."""

    @_handled(in_rpc_thread=True, extra_time=WRITING)
    def keep_copy(self, name: str, tick: int, data: Tensor, keep: int) -> None:
        """Keep a snapshot of another host's process, uint8, and only the newest `keep` of this name."""

    @_handled(in_rpc_thread=True)
    def forget_copies(self, name: str, tick: int | None = None) -> None:
        """Forget the snapshots of this name, which may be copies of another host's, or only that of one tick."""

    @_handled(extra_time=WRITING)
    def resume_from_snapshot(self, sources: Sequence[Snapshot | None], tick: int) -> str:
        """Go on at `tick`, and forget snapshots of later ticks. Returns why the snapshot cannot be loaded, if so.

        Args:
            sources: what each stage, of all replicas, goes on from, which is on its host; None: from what it has now.
                Empty: nobody goes on from a snapshot.
        """

    @_handled(together=True)
    def checkpoint(self, folder: Path, tick: int, regroup: bool) -> None:
        """Copy the state before `tick`, and start writing it in the background.

        `regroup`: an earlier one failed, so the process group that writes them is formed anew first.
        """

    @_handled(together=True, in_rpc_thread=True)
    def checkpoint_written(self, seconds: float) -> None:
        """Wait until the checkpoint is on disk, at most `seconds`."""

    @_handled()
    def export(self) -> dict[str, Tensor]:
        """Parameters and buffers of this stage's blocks, on the CPU, under the whole model's names."""

    @_handled(in_rpc_thread=True)
    def probe(self, frame: int) -> None:
        """Measure the pseudo-gradient of `frame`, which has not been sent yet."""

    @_handled(in_rpc_thread=True)
    def probe_result(self, seconds: float) -> GradientSample | None:
        """Wait for the result of the probe, at most `seconds`; None if there is none by then or the training ended."""

    @_handled(in_rpc_thread=True)
    def sample_output(self, frame: int, rows: int, every: int) -> None:
        """Copy the first `rows` rows of the output for `frame`, or for the next one if it has passed (top stage).

        Of outputs as large as a frame, copy every `every`-th row and column of pixels.
        """

    @_handled(in_rpc_thread=True)
    def sampled_output(self) -> OutputSample | None:
        """What `sample_output` has asked for; None until the stage has computed it."""

    @_handled()
    def trace(self, first: int, ticks: int) -> None:
        """Record the spans of ticks first … first + ticks - 1."""

    @_handled(in_rpc_thread=True)
    def trace_rows(self, seconds: float) -> Rows:
        """Wait for the last recorded tick, at most `seconds`, and return the spans, int64 [spans, 4]."""

    @_handled(in_rpc_thread=True)
    def clock(self) -> int:
        """This host's clock, in ns."""

    @_handled(in_rpc_thread=True)
    def expect_coordinator_exit(self) -> None:
        """Do not report that the coordinator has exited: it reports itself why the run ends for good."""

    @_handled(together=True)
    def quit(self, code: int) -> None:
        """Exit this process with an exit code."""
