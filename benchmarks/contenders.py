"""Who takes part in benchmarks/peers.py: the product's workers with each algorithm, and plain torch."""

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.bench import Bench, config_of, tick_ms
from benchmarks.rivals import Rival
from common.rule.schedule import Schedule
from common.telemetry.spans import Kind, Rows

if TYPE_CHECKING:
    from common.config.settings import Config


@dataclass(frozen=True)
class Case:
    """A model of the zoo, the side of a frame in pixels, and the slots."""

    model: str
    size: int
    slots: int

    @classmethod
    def of(cls, name: str) -> "Case | None":
        """From its name; None for one that is none."""
        found = re.fullmatch(r"(\w+)_(\d+)_b(\d+)", name)
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def config(
        self, split: list[int], algorithm: str = "sideways", parts: int = 0, counting: Path | None = None
    ) -> "Config":
        """The settings of a run of it, of `parts` micro-batches. With `counting`, a folder, its model counts bytes."""
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
    """What a contender did.

    Attributes:
        kind: a name of the docstring's; parts: its M, or 0.
        frames: of a tick or step.
        steps: of a round.
        rates: frames per second, of each round.
        efficiencies, imbalances: of each round; the latter the slowest stage's compute over the mean stage's.
        kept: bytes, of each process.
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
    """What can be timed."""

    result: Result

    def run(self, steps: int) -> float:
        """Seconds for so many steps or ticks, when warm."""

    def count(self, folder: Path) -> None:
        """Find what it keeps."""

    def close(self) -> None:
        """Let its processes go."""


class Workers:
    """The product's stage workers with one of its algorithms."""

    def __init__(self, bench: Bench, case: Case, split: list[int], algorithm: str, parts: int) -> None:
        self._bench = bench
        self._config = partial(case.config, split, algorithm, parts)
        self._warm = 2 * bench.count + 2 if algorithm == "sideways" else 1
        self.result = Result(algorithm, parts, max(1, parts) * case.slots)

    def prepare(self) -> None:
        """Build the stages, and fill the pipeline."""
        self._bench.configure(self._config())
        self._bench.run(self._warm)

    def run(self, steps: int) -> float:
        """Seconds for so many steps or ticks."""
        self.prepare()
        totals = self._bench.run(steps)
        seconds = tick_ms(totals, 1) / 1e3
        compute = [total["compute_seconds"] for total in totals]
        self.result.efficiencies.append(sum(compute) / (len(compute) * seconds))
        self.result.imbalances.append(max(compute) / mean(compute))
        return seconds

    def count(self, folder: Path) -> None:
        """Find what each stage keeps."""
        self._bench.configure(self._config(counting=folder))
        self._bench.run(self._warm)
        self.result.kept = _read(folder)

    def update_ms(self, ticks: int) -> list[float]:
        """Of Sideways: milliseconds from a frame's arrival to the end of the update that it causes, in each stage."""
        self.prepare()
        stages = [
            {kind: _ends(rows, kind) for kind in (Kind.WAIT_FRAMES, Kind.UPDATE)} for rows in self._bench.trace(ticks)
        ]
        arrived, schedule = stages[0][Kind.WAIT_FRAMES], Schedule(self._bench.count)
        found = []
        for stage, ends in enumerate(stages):
            later = schedule.first_gradient(stage)  # a frame comes back as a gradient so many ticks later
            updated = ends[Kind.UPDATE]
            found.append(median(1e-6 * (updated[k + later] - arrived[k]) for k in arrived if k + later in updated))
        return found

    def close(self) -> None:
        """The next contender takes them over."""


class Plain:
    """Plain torch: backpropagation, unrelated copies of it, or DistributedDataParallel."""

    def __init__(self, case: Case, kind: str, processes: int, threads: int, copies: bool = False) -> None:
        self._case, self._form = case, (processes, threads, copies)
        self._rival = Rival(case.config([1]), *self._form)
        self.result = Result(kind, 0, case.slots * (processes if copies else 1))

    def run(self, steps: int) -> float:
        """Seconds for so many steps."""
        self._rival.run(1)
        return self._rival.run(steps)

    def count(self, folder: Path) -> None:
        """Find what each process keeps."""
        rival = Rival(self._case.config([1], counting=folder), *self._form)
        rival.run(1)
        rival.close()
        self.result.kept = _read(folder)

    def close(self) -> None:
        """Let its processes go."""
        self._rival.close()


def _ends(rows: Rows, kind: Kind) -> dict[int, int]:
    """Tick → ns."""
    return {int(tick): int(end) for of, tick, _, end in rows if of == kind}


def _read(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in sorted(folder.iterdir(), key=lambda file: int(file.name))]
