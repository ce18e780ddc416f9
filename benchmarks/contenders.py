"""The contenders of benchmarks/peers.py: the product's stage workers with each algorithm, and plain torch."""

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.bench import Bench, config_of, tick_ms
from benchmarks.plain_torch import PlainTorch
from common.rule.schedule import Schedule
from common.telemetry.spans import Kind, Rows

if TYPE_CHECKING:
    from common.config.settings import Config


@dataclass(frozen=True)
class Case:
    """A model of the zoo, the height and width of a frame in pixels, and the number of slots."""

    model: str
    size: int
    slots: int

    @classmethod
    def of(cls, name: str) -> "Case | None":
        """Parse MODEL_SIZE_bB. Returns None if `name` has another form."""
        match = re.fullmatch(r"(\w+)_(\d+)_b(\d+)", name)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    def config(
        self, split: list[int], algorithm: str = "sideways", parts: int = 0, counting: Path | None = None
    ) -> "Config":
        """The settings of a run.

        Args:
            split: Blocks (or layers, if there are several stages) of each stage.
            algorithm: As in the run file.
            parts: The number of micro-batches, each with the case's slots; 0 if the algorithm has none.
            counting: A folder to which the model writes how many bytes autograd keeps; None for the plain model.
        """
        layers = len(split) > 1
        changes: dict[str, Any] = {"algorithm": algorithm, "cuts": "layers" if layers else "blocks"}
        if parts:
            changes["micro_batches"] = parts
        if counting:
            changes["model_args"] = {"model": self.model, "out": str(counting), "layers": layers}
        model = "counting" if counting else self.model
        return config_of(model, split, max(1, parts) * self.slots, self.size, **changes)


@dataclass
class Result:
    """What was measured of a contender.

    Attributes:
        kind: The contender's name, as in the docstring of benchmarks/peers.py.
        parts: The number of micro-batches M, or 0.
        frames: Frames per tick or step.
        steps: Ticks or steps per round.
        rates: Frames per second in each round.
        efficiencies: The stages' compute time / (D × tick time) in each round.
        imbalances: The slowest stage's compute time / the mean stage's in each round.
        kept: The most bytes that autograd keeps in each process.
    """

    kind: str
    parts: int
    frames: int
    steps: int = 1
    rates: list[float] = field(default_factory=list)
    efficiencies: list[float] = field(default_factory=list)
    imbalances: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)


class Contender(Protocol):
    """Something that can be timed."""

    result: Result

    def run(self, steps: int) -> float:
        """Warm up, then return the seconds that `steps` steps or ticks take."""

    def count(self, folder: Path) -> None:
        """Measure the bytes that autograd keeps, through files in `folder`; sets `result.kept`."""

    def close(self) -> None:
        """Stop its processes."""


class Workers:
    """The product's stage workers with one of its algorithms."""

    def __init__(self, bench: Bench, case: Case, split: list[int], algorithm: str, parts: int) -> None:
        self._bench = bench
        self._config = partial(case.config, split, algorithm, parts)
        self._warm = 2 * bench.count + 2 if algorithm == "sideways" else 1
        self.result = Result(algorithm, parts, max(1, parts) * case.slots)

    def prepare(self) -> None:
        """Build the stages and fill the pipeline."""
        self._bench.configure(self._config())
        self._bench.run(self._warm)

    def run(self, steps: int) -> float:
        """See Contender.run. Also appends to `result.efficiencies` and `result.imbalances`."""
        self.prepare()
        totals = self._bench.run(steps)
        seconds = tick_ms(totals, 1) / 1e3
        compute = [total["compute_seconds"] for total in totals]
        self.result.efficiencies.append(sum(compute) / (len(compute) * seconds))
        self.result.imbalances.append(max(compute) / mean(compute))
        return seconds

    def count(self, folder: Path) -> None:
        """See Contender.count."""
        self._bench.configure(self._config(counting=folder))
        self._bench.run(self._warm)
        self.result.kept = _read(folder)

    def update_ms(self, ticks: int) -> list[float]:
        """Only for Sideways: milliseconds from a frame's arrival to the end of its update, in each stage."""
        self.prepare()
        stages = [
            {kind: _ends(rows, kind) for kind in (Kind.WAIT_FRAMES, Kind.UPDATE)} for rows in self._bench.trace(ticks)
        ]
        arrived, schedule = stages[0][Kind.WAIT_FRAMES], Schedule(self._bench.count)
        times = []
        for stage, ends in enumerate(stages):
            delay = schedule.first_gradient(stage)  # ticks from a frame's arrival to the gradient of its loss
            updated = ends[Kind.UPDATE]
            times.append(median(1e-6 * (updated[k + delay] - arrived[k]) for k in arrived if k + delay in updated))
        return times

    def close(self) -> None:
        """Does nothing: the next contender uses the same processes."""


class Plain:
    """Plain torch: backpropagation, independent copies of it, or DistributedDataParallel."""

    def __init__(self, case: Case, kind: str, processes: int, threads: int, copies: bool = False) -> None:
        self._case, self._form = case, (processes, threads, copies)
        self._torch = PlainTorch(case.config([1]), *self._form)
        self.result = Result(kind, 0, case.slots * (processes if copies else 1))

    def run(self, steps: int) -> float:
        """See Contender.run."""
        self._torch.run(1)
        return self._torch.run(steps)

    def count(self, folder: Path) -> None:
        """See Contender.count."""
        plain = PlainTorch(self._case.config([1], counting=folder), *self._form)
        plain.run(1)
        plain.close()
        self.result.kept = _read(folder)

    def close(self) -> None:
        """Stop its processes."""
        self._torch.close()


def _ends(rows: Rows, kind: Kind) -> dict[int, int]:
    """The end, in nanoseconds, of each tick's span of a kind."""
    return {int(tick): int(end) for row_kind, tick, _, end in rows if row_kind == kind}


def _read(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in sorted(folder.iterdir(), key=lambda file: int(file.name))]
