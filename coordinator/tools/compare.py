"""`sideways compare`: trains the same run with several algorithms in turn, and compares them in a table and a plot.

Every algorithm uses the same workers, split, order of frames, loss, optimiser and evaluations. The first run measures
the split. The output folder has a run directory per algorithm, compare.json, compare.md and compare.png.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from common.config.run_file import load
from common.config.settings import Algorithm, Config
from common.errors import ConfigError, SidewaysError
from common.rule.tasks import without_loss
from coordinator.launch.launcher import Supervision, launch
from coordinator.launch.role import run_role
from coordinator.launch.stage_processes import count_gpus, layout_of

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e")


@dataclass(frozen=True)
class Outcome:
    """The results of one algorithm.

    Attributes:
        score: top-1, or the mean squared error, of the last evaluation; None without one.
        seconds: training time.
        tick_ms: time of a tick in ms.
        peak_memory_mib: of each stage, in MiB, beyond what its process held before the stage was built.
        curve: for each evaluation: frames trained on, seconds of training, score.
    """

    algorithm: str
    ticks: int
    score: float | None
    frames_per_second: float
    seconds: float
    tick_ms: float
    peak_memory_mib: list[float]
    curve: list[tuple[int, float, float]]


def check_algorithms(names: str) -> list[str]:
    """The algorithms of a comma-separated list. Raises ConfigError for an unknown one, or for fewer than two."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    allowed = get_args(Algorithm)
    for name in chosen:
        if name not in allowed:
            raise ConfigError(f"--algorithms {names}: {name!r} is unknown. Allowed: {', '.join(allowed)}")
    if len(set(chosen)) < 2:
        raise ConfigError(f"--algorithms {names}: name two or more of {', '.join(allowed)}")
    return list(dict.fromkeys(chosen))


def compare(run_file: Path, settings: Sequence[str], algorithms: Sequence[str]) -> tuple[Path, list[Outcome], int]:
    """Train with each algorithm in turn, until a run ends early.

    Returns:
        The output folder, the results so far, and the exit code of the run that ended early, or 0.

    Raises:
        ConfigError: the run file or a setting is wrong.
        SidewaysError: the folder or a file in it cannot be written.
    """
    configs = {name: load(run_file, _overrides(settings, name)) for name in algorithms}  # check all of them first
    _check_devices(configs.values())
    folder = _make_folder(next(iter(configs.values())), run_file)
    outcomes: list[Outcome] = []
    split = None
    for name, config in configs.items():
        overrides = [*_overrides(settings, name), f"runs={folder}", f'name="{name}"']
        if split is not None:
            overrides.append(f"split={split}")
        program = partial(run_role, run_file, "auto", None, overrides, False)
        code = launch(program, layout_of(config), Supervision.of(config))
        if code:
            return folder, outcomes, code
        outcomes.append(outcome_of(folder / name, config))
        split = load(folder / name / "run.toml").split
    _write(folder / "compare.json", json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    _write(folder / "compare.md", markdown(outcomes, configs[algorithms[0]]))
    draw(outcomes, configs[algorithms[0]], folder / "compare.png")
    return folder, outcomes, 0


def _check_devices(configs: Iterable[Config]) -> None:
    """Raise ConfigError if one of the runs needs more GPUs than there are."""
    apart = [config for config in configs if config.exact_gradients and config.stages > 1 and config.device != "cpu"]
    if apart and 0 < (gpus := count_gpus()) < apart[0].stages:
        names = ", ".join(config.algorithm for config in apart)
        raise ConfigError(
            f"{names} need a GPU for each of the {apart[0].stages} stages, but there are {gpus}: compare with "
            f'--set stages={gpus}, on the CPU with --set device="cpu", or without them by --algorithms'
        )


def _overrides(settings: Sequence[str], algorithm: str) -> list[str]:
    """The run's settings with this algorithm. Only Sideways has gradients to probe, and edges like these."""
    own = [] if algorithm == "sideways" else ["probe.every=0", "network.edge_ticks=1", 'network.wire="float32"']
    return [*settings, f'algorithm="{algorithm}"', *own]


def _make_folder(config: Config, run_file: Path) -> Path:
    name = config.name or f"{run_file.stem}-compare-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = config.runs / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SidewaysError(f"cannot create {folder}: {error.strerror}. Set name or runs to something else") from error
    return folder


def outcome_of(run: Path, config: Config) -> Outcome:
    """Read the results of a finished run from its directory."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure = f"val_{without_loss(config, 1).names[0]}"
    curve = [
        (line["tick"] * config.data.slots, line["train_seconds"], line[figure])
        for line in lines
        if line["kind"] == "evaluation" and figure in line
    ]
    return Outcome(
        algorithm=config.algorithm,
        ticks=summary["ticks"],
        score=summary.get(figure),
        frames_per_second=summary["frames_per_second"],
        seconds=summary["train_seconds"],
        tick_ms=summary["tick_ms"],
        peak_memory_mib=summary["peak_memory_mib"],
        curve=curve,
    )


def figure_name(config: Config) -> str:
    """The name of the score, for tables and axes."""
    name = without_loss(config, 1).names[0]
    return {"top1": "top-1", "mse": "mean squared error", "map": "mean average precision"}.get(name, name)


def rows(outcomes: Sequence[Outcome], config: Config) -> tuple[list[str], list[list[str]]]:
    """The table of results: its header, and one row per algorithm."""
    head = ["algorithm", figure_name(config), "frames/s", "ms per tick", "seconds", "peak MiB per stage"]
    lines = [
        [
            outcome.algorithm,
            "-" if outcome.score is None else f"{outcome.score:.4g}",
            f"{outcome.frames_per_second:.0f}",
            f"{outcome.tick_ms:.1f}",
            f"{outcome.seconds:.0f}",
            " / ".join(f"{value:.0f}" for value in outcome.peak_memory_mib),
        ]
        for outcome in outcomes
    ]
    return head, lines


def markdown(outcomes: Sequence[Outcome], config: Config) -> str:
    """The table in Markdown, after a line with the model, data and host."""
    head, lines = rows(outcomes, config)
    table = [head, ["---"] * len(head), *lines]
    text = "\n".join("| " + " | ".join(line) + " |" for line in table)
    pixels = " × ".join(map(str, config.data.shape))
    return (
        f"{config.model}, {config.stages} stages, {config.data.slots} slots of {pixels} "
        f"pixels, {outcomes[0].ticks} ticks, {os.cpu_count()} cores; the score is of the last evaluation\n\n{text}\n"
    )


def draw(outcomes: Sequence[Outcome], config: Config, path: Path) -> None:
    """Plot score against frames and seconds, ms per tick, and peak memory per stage. Raises SidewaysError."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    by_frames, by_seconds, times, memory = figure.subplots(2, 2).flat
    for outcome, colour in zip(outcomes, _COLOURS, strict=False):
        for axes, column in ((by_frames, 0), (by_seconds, 1)):
            points = [(point[column], point[2]) for point in outcome.curve]
            axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", label=outcome.algorithm, color=colour)
    for axes, label in ((by_frames, "frames"), (by_seconds, "seconds of training")):
        axes.set_xlabel(label)
        axes.set_ylabel(figure_name(config))
        axes.legend()
    names = [outcome.algorithm for outcome in outcomes]
    times.bar(names, [outcome.tick_ms for outcome in outcomes], color=_COLOURS[: len(names)])
    times.set_ylabel("ms per tick")
    _draw_memory(memory, outcomes)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise SidewaysError(f"cannot write {path}: {error.strerror}") from error


def _draw_memory(axes: Any, outcomes: Sequence[Outcome]) -> None:
    width, stages = 0.8 / len(outcomes), len(outcomes[0].peak_memory_mib)
    for number, (outcome, colour) in enumerate(zip(outcomes, _COLOURS, strict=False)):
        places = [stage + number * width for stage in range(len(outcome.peak_memory_mib))]
        axes.bar(places, outcome.peak_memory_mib, width, label=outcome.algorithm, color=colour)
    axes.set_xticks([stage + (0.8 - width) / 2 for stage in range(stages)], [str(stage) for stage in range(stages)])
    axes.set_xlabel("stage")
    axes.set_ylabel("peak memory, MiB")
    axes.legend()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SidewaysError(f"cannot write {path}: {error.strerror}") from error


def show(folder: Path, outcomes: Sequence[Outcome], config: Config, as_json: bool) -> None:
    """Print the table, and with `as_json` the results as one line of JSON."""
    from rich.console import Console
    from rich.table import Table

    head, lines = rows(outcomes, config)
    table = Table(*head, title=f"Comparison, in {folder}")
    for line in lines:
        table.add_row(*line)
    Console(highlight=False).print(table)
    if as_json:
        print(json.dumps({"folder": str(folder), "outcomes": [asdict(outcome) for outcome in outcomes]}), flush=True)
