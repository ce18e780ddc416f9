"""`sideways runs`, `status` and `top`: tables and bars for a terminal. Names are untrusted, so shown without markup."""

import time
from collections.abc import Callable

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.run_registry.records import LIVE, StageStatus, Status
from coordinator.registry.run_finder import RunInfo

_BAR, _EVERY = 16, 1.0  # columns; seconds between updates


def overview(seen: list[RunInfo]) -> Table:
    """A table of all runs."""
    table = Table(title="Runs")
    for column in ("name", "state", "tick", "ticks", "loss", "accuracy", "started", "host"):
        number = column in ("tick", "ticks", "loss", "accuracy")
        table.add_column(column, justify="right" if number else "left", no_wrap=column == "name")
    for run in seen:
        status = run.status
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.started))
        cells = [status.name, run.state, str(status.tick), str(status.planned), _figure(status.loss)]
        table.add_row(*map(Text, [*cells, _figure(status.accuracy), started, status.owner.host]))
    return table


def view(seen: RunInfo) -> RenderableType:
    """The status of one run: its headline, message and stages."""
    message = [Text(seen.status.message)] if seen.status.message else []
    return Group(Text(headline(seen)), *message, stages(seen.status))


def headline(seen: RunInfo) -> str:
    """The run's state and metrics in one line."""
    status = seen.status
    parts = [f"{status.name}: {seen.state}", f"tick {status.tick} of {status.planned}"]
    if status.ticks_per_second is not None:
        parts.append(f"{status.ticks_per_second:.1f} ticks/s")
    figures = {"loss": status.loss, "accuracy": status.accuracy, "lr": status.learning_rate, **status.evaluation}
    return ", ".join([*parts, *(f"{name} {_figure(value)}" for name, value in figures.items() if value is not None)])


def stages(status: Status) -> Table:
    """A table of the stages: how each one's time is spent, and its metrics."""
    table = Table(
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        caption="█ computing  ▒ waiting for neighbours  ░ waiting for frames  · other",
    )
    table.add_column("stage", justify="right")
    table.add_column("tick time", min_width=_BAR)
    for column in ("ms", "compute", "wait", "gated", "grad", "lr", "MiB"):
        table.add_column(column, justify="right")
    for stage in status.stages:
        wait = stage.receive_wait_ms + stage.send_wait_ms + stage.data_wait_ms
        cells = [_figure(stage.tick_ms), _figure(stage.compute_ms), _figure(wait), _share(stage.gated_share)]
        figures = [_figure(stage.gradient_norm), _figure(stage.learning_rate), f"{stage.peak_memory_mib:.0f}"]
        table.add_row(str(stage.stage), bar(stage), *cells, *figures)
    return table


def bar(stage: StageStatus, width: int = _BAR) -> Text:
    """A tick's time as `width` columns: computing, waiting for neighbours, waiting for frames, the rest."""
    between = stage.receive_wait_ms + stage.send_wait_ms
    ends = [stage.compute_ms, stage.compute_ms + between, stage.compute_ms + between + stage.data_wait_ms]
    edges = [min(width, max(0, round(width * end / max(stage.tick_ms, 1e-9)))) for end in ends]
    text, before = Text(), 0
    for edge, letter, style in zip([*edges, width], "█▒░·", ("green", "yellow", "red", "dim"), strict=True):
        text.append(letter * (edge - before), style)
        before = max(before, edge)
    return text


def watch(get_run: Callable[[], RunInfo], console: Console) -> None:
    """Show a run until it ends, or once if the output is not a terminal. `get_run` returns its status; may raise."""
    seen = get_run()
    if not console.is_terminal:
        console.print(view(seen))
        return
    with Live(view(seen), console=console, auto_refresh=False) as live:
        while seen.state in LIVE:
            time.sleep(_EVERY)
            seen = get_run()
            live.update(view(seen), refresh=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
