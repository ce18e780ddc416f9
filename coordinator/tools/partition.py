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
from common.models.shapes import activation_shapes
from common.partition.balance import BlockCost, balance, by_stage, check_split, max_concurrent_stages, measure
from common.partition.model_check import check_model
from common.partition.prediction import Prediction, optimiser_state, predict, stage_times
from common.partition.rebalance import rebalance
from common.partition.skip_costs import SkipCost, SkipTimer, skip_timer
from common.partition.stopwatch import as_it_runs
from common.rule.memory_format import with_memory_format
from common.rule.optimiser import build_optimiser
from common.rule.precision import casting

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
    check_model(build(config, classes, warn), config, classes, warn)
    arrangements = _possible(config, arrangements, classes, warn)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    configs = [config.model_copy(update=arrangement._asdict()).of_replica for arrangement in arrangements]
    threads = [share_of_threads(config, own.total_stages) for own in configs]
    timed: dict[tuple[int, int, int], tuple[list[BlockCost], SkipTimer]] = {}
    costs, predictions = [], []
    before = torch.get_num_threads()
    try:
        for own, number in zip(configs, threads, strict=True):
            torch.set_num_threads(number)
            model = build(own, classes)
            key = number, len(model), own.data.slots  # number of blocks, or of layers
            if key not in timed:
                timed[key] = _timed(own, model, device)
            costs.append(timed[key][0])
            predictions.append(_predict(own, *timed[key], max_concurrent_stages(device, number) / own.replicas))
    finally:
        torch.set_num_threads(before)
    return Comparison(costs, predictions, list(arrangements), threads, str(device), config.data.slots)


def _possible(
    config: Config, arrangements: Sequence[Arrangement], classes: int, warn: Callable[[str], None]
) -> Sequence[Arrangement]:
    """Those of several arrangements for whose stages the model has enough blocks, or layers."""
    found = [
        each
        for each in arrangements
        if each.stages <= len(build(config.model_copy(update=each._asdict()).of_replica, classes))
    ]
    if not found or len(found) == len(arrangements):
        return arrangements  # if it is none, the error says so
    others = ", ".join(str(each.stages) for each in arrangements if each not in found)
    warn(f"the model has too few blocks for {others} stages: they are left out")
    return found


def _timed(config: Config, model: nn.Sequential, device: torch.device) -> tuple[list[BlockCost], SkipTimer]:
    """The costs of a disposable model's blocks, and what times skips between them."""
    on_gpus, context = device.type == "cuda", partial(casting, config, device)
    frames = as_it_runs(config, model, device, on_gpus)
    with context():
        outputs = activation_shapes(list(model), config.frame_shape)
    last = with_memory_format(config, model, on_gpus).channels_last
    return measure(model, frames, context), skip_timer(outputs, device, last, context)


def _predict(config: Config, costs: list[BlockCost], time_skips: SkipTimer, max_concurrent_stages: float) -> Prediction:
    skips = [(source, target) for source, target in config.skip_pairs if target < config.stages]
    fixed = config.split if config.split and len(config.split) == config.stages else None
    split = fixed or _balanced(costs, config.stages, lambda split: time_skips(skips, split))
    check_split(split, len(costs))
    state = optimiser_state(build_optimiser(nn.Linear(64, 64), config.optimiser, 0))
    state += (config.optimiser.ema > 0) + 2 * (config.optimiser.orthogonal > 0)
    input_kib = torch.Size(config.frame_shape).numel() * torch.float32.itemsize / 1024
    return predict(costs, split, input_kib, max_concurrent_stages, state, time_skips(skips, split))


def _balanced(
    costs: Sequence[BlockCost], stages: int, skips_of: Callable[[Sequence[int]], list[SkipCost]]
) -> list[int]:
    """The split whose slowest stage is fastest. What skips cost depends on the split, so a few are tried."""
    times = [cost.milliseconds for cost in costs]
    return rebalance(times, balance(times, stages), lambda split: stage_times(costs, split, skips_of(split)))


def show(comparison: Comparison, console: Console) -> None:
    """Print the table of blocks, then that of the stages or, for several arrangements, one row for each."""
    single = len(comparison.predictions) == 1
    slots = comparison.slots // comparison.arrangements[0].replicas
    console.print(_blocks(comparison.costs[0], comparison.predictions[0] if single else None, slots))
    console.print(_stages(comparison) if single else _arrangements(comparison))
    if single and comparison.predictions[0].skips:
        console.print(_skips(comparison.predictions[0].skips))
    console.print(
        f"timed on {comparison.device} with {comparison.threads[0]} thread(s) per stage. saved: kept for the backward "
        "pass, and remembered; tick: time of the slowest stage, or more if stages share cores; efficiency: sum of the "
        "stages' times / (stages × the slowest). Skips count, exchanging gradients between replicas does not",
        style="dim",
    )


def _blocks(costs: Sequence[BlockCost], prediction: Prediction | None, slots: int) -> Table:
    remember = any(cost.remembered_kib for cost in costs)
    columns = "block", "parameters", "ms", "output KiB", "saved KiB", *["remembered KiB a slot"] * remember
    table = _table("Blocks, forward + backward", *columns)
    if prediction is not None:
        table.add_column("stage", justify="right")
    stages = [stage for stage, blocks in enumerate(prediction.split if prediction else []) for _ in range(blocks)]
    for index, cost in enumerate(costs):
        figures = [f"{cost.parameters:,}", f"{cost.milliseconds:.2f}"]
        figures += [f"{cost.activation_kib:.0f}", f"{cost.saved_kib:.0f}"]
        figures += [f"{cost.remembered_kib / slots:.1f}"] * remember
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


def _skips(skips: Sequence[SkipCost]) -> Table:
    columns = "from", "to", "KiB each way", "pooling ms", "projection ms", "parameters"
    table = _table("Skips, forward + backward", *columns)
    for skip in skips:
        pooling, projection = skip.pooling, skip.projection
        times = f"{pooling.milliseconds:.2f}", f"{projection.milliseconds:.2f}"
        sent, parameters = f"{pooling.activation_kib:.0f}", f"{projection.parameters:,}"
        table.add_row(str(skip.source), str(skip.target), sent, *times, parameters)
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
