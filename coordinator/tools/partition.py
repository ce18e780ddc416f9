"""`sideways partition`: measures the cost of a model's blocks, and predicts the split for some numbers of processes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from common.config.settings import Config, share_of_threads
from common.errors import ConfigError
from common.models import build
from common.partition.balance import (
    BlockCost,
    Prediction,
    balance,
    by_stage,
    check_split,
    max_concurrent_stages,
    measure,
    optimiser_state,
    predict,
)
from common.partition.model_check import check_model
from common.partition.stopwatch import as_it_runs
from common.rule.optimiser import build_optimiser
from common.rule.stage import casting

_MOST_STAGES = 256


def stage_counts(text: str) -> list[int]:
    """Parse `4`, `1..4` or `1,2,4`. Raises ConfigError."""
    first, dots, last = text.partition("..")
    try:
        counts = list(range(int(first), int(last) + 1)) if dots else [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or max(counts) > _MOST_STAGES:
        raise ConfigError(f"--stages {text}: use the form 4, 1..4 or 1,2,4, with numbers from 1 to {_MOST_STAGES}")
    return counts


class Arrangement(NamedTuple):
    """How many processes train, and how they share the work."""

    replicas: int
    stages: int


def arrangements(processes: int, slots: int) -> list[Arrangement]:
    """All in which `processes` stage workers can train `slots` slots, from data parallelism to a single pipeline.

    Raises:
        ConfigError: there are none.
    """
    found = [
        Arrangement(replicas, processes // replicas)
        for replicas in range(processes, 0, -1)
        if processes % replicas == 0 and slots % replicas == 0 and processes // replicas <= _MOST_STAGES
    ]
    if not found:
        raise ConfigError(f"--processes {processes}: the most is {_MOST_STAGES} for each replica")
    return found


@dataclass(frozen=True)
class Comparison:
    """Measured costs of the blocks, and the predicted split for each arrangement of processes.

    Attributes:
        costs: of the blocks, one list per prediction, because the number of threads differs, and a replica's rows.
        predictions: one for each arrangement; of a replica.
        arrangements: of the predictions.
        threads: of one stage, for each prediction; with fewer processes each has more.
        device: that the blocks were timed on.
        slots: of all replicas.
    """

    costs: list[list[BlockCost]]
    predictions: list[Prediction]
    arrangements: list[Arrangement]
    threads: list[int]
    device: str
    slots: int

    @property
    def rates(self) -> list[float]:
        """Predicted frames per second of all replicas together."""
        return [1e3 * self.slots / prediction.tick_ms for prediction in self.predictions]

    def tree(self) -> dict[str, Any]:
        """For --json, in ms, KiB and MiB. `blocks` has the costs for the first arrangement."""
        rows = [
            {**of._asdict(), "threads": threads, "frames_per_second": rate, **asdict(prediction)}
            for of, threads, rate, prediction in zip(
                self.arrangements, self.threads, self.rates, self.predictions, strict=True
            )
        ]
        return {"device": self.device, "blocks": [asdict(cost) for cost in self.costs[0]], "splits": rows}


def compare(
    config: Config, classes: int, arrangements: Sequence[Arrangement], warn: Callable[[str], None]
) -> Comparison:
    """Time the run's model on this machine, and balance its blocks for each arrangement of processes.

    A split in the run file is used for its number of stages instead of a balanced one.

    Args:
        arrangements: of the processes that train.
        warn: called with a message about parameters that `config.weights` did not set.

    Raises:
        ConfigError: the model does not fit its task, or has fewer blocks than stages.
    """
    check_model(build(config, classes, warn), config, classes)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    timed: dict[tuple[int, int, int], list[BlockCost]] = {}  # by threads, number of blocks or of layers, and rows
    configs = [config.model_copy(update=arrangement._asdict()).of_replica for arrangement in arrangements]
    threads = [share_of_threads(config, own.workers) for own in configs]
    models = [build(own, classes) for own in configs]
    keys = [(number, len(model), own.data.slots) for number, model, own in zip(threads, models, configs, strict=True)]
    before = torch.get_num_threads()
    try:
        for key, (own, model) in dict(zip(keys, zip(configs, models, strict=True), strict=True)).items():
            torch.set_num_threads(key[0])
            frames = as_it_runs(own, model, device, device.type == "cuda")
            timed[key] = measure(model, frames, partial(casting, config, device))
    finally:
        torch.set_num_threads(before)
    costs = [timed[key] for key in keys]
    predictions = [
        _predict(own, cost, max_concurrent_stages(device, number) / own.replicas)
        for cost, own, number in zip(costs, configs, threads, strict=True)
    ]
    return Comparison(costs, predictions, list(arrangements), threads, str(device), config.data.slots)


def _predict(config: Config, costs: list[BlockCost], max_concurrent_stages: float) -> Prediction:
    fixed = config.split if config.split and len(config.split) == config.stages else None
    split = fixed or balance([cost.milliseconds for cost in costs], config.stages)
    check_split(split, len(costs))
    state = optimiser_state(build_optimiser(nn.Linear(64, 64), config.optimiser, 0))
    state += (config.optimiser.ema > 0) + 2 * (config.optimiser.orthogonal > 0)
    input_kib = torch.Size(config.frame_shape).numel() * torch.float32.itemsize / 1024
    return predict(costs, split, input_kib, max_concurrent_stages, state)


def show(comparison: Comparison, console: Console) -> None:
    """Print the table of blocks, then that of the stages or, for several arrangements, one row for each."""
    single = len(comparison.predictions) == 1
    console.print(_blocks(comparison.costs[0], comparison.predictions[0] if single else None))
    console.print(_stages(comparison) if single else _arrangements(comparison))
    console.print(
        f"timed on {comparison.device} with {comparison.threads[0]} thread(s) per stage. saved: kept for the backward "
        "pass; tick: time of the slowest stage, or more if stages share cores; efficiency: sum of the stages' times / "
        "(stages × the slowest); exchanging gradients between replicas is not in it",
        style="dim",
    )


def _blocks(costs: Sequence[BlockCost], prediction: Prediction | None) -> Table:
    table = _table("Blocks, forward + backward", "block", "parameters", "ms", "output KiB", "saved KiB")
    if prediction is not None:
        table.add_column("stage", justify="right")
    stages = [stage for stage, blocks in enumerate(prediction.split if prediction else []) for _ in range(blocks)]
    for index, cost in enumerate(costs):
        figures = [f"{cost.parameters:,}", f"{cost.milliseconds:.2f}"]
        figures += [f"{cost.activation_kib:.0f}", f"{cost.saved_kib:.0f}"]
        table.add_row(cost.name, *figures, *([str(stages[index])] if stages else []))
    return table


def _stages(comparison: Comparison) -> Table:
    prediction, parts = comparison.predictions[0], by_stage(comparison.costs[0], comparison.predictions[0].split)
    table = _table("Split", "stage", "blocks", "parameters", "ms", "memory MiB")
    for stage, part in enumerate(parts):
        parameters = f"{sum(cost.parameters for cost in part):,}"
        figures = [f"{prediction.stage_ms[stage]:.2f}", f"{prediction.memory_mib[stage]:.1f}"]
        table.add_row(str(stage), _span(part), parameters, *figures)
    table.caption = f"predicted tick {prediction.tick_ms:.2f} ms, efficiency {prediction.efficiency:.2f}"
    return table


def _arrangements(comparison: Comparison) -> Table:
    figures = "slowest ms", "tick ms", "frames/s", "efficiency", "largest memory MiB"
    table = _table("Arrangements of processes", "replicas", "stages", "split", *figures)
    rows = zip(comparison.arrangements, comparison.predictions, comparison.rates, strict=True)
    for (replicas, stages), prediction, rate in rows:
        times = f"{max(prediction.stage_ms):.2f}", f"{prediction.tick_ms:.2f}", f"{rate:.1f}"
        others = f"{prediction.efficiency:.2f}", f"{max(prediction.memory_mib):.1f}"
        table.add_row(str(replicas), str(stages), "+".join(map(str, prediction.split)), *times, *others)
    return table


def _span(part: Sequence[BlockCost]) -> str:
    return part[0].name if len(part) == 1 else f"{part[0].name} … {part[-1].name}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        text = column in ("block", "blocks", "split")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table
