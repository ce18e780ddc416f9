"""The terminal: the split, a progress bar, messages and warnings, the result."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any, Literal, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from common.partition.balance import BlockCost
from common.run_registry.records import State
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent
from coordinator.monitor.run_totals import RunTotals

_PLAIN_EVERY = 5.0  # seconds between lines if the output is not a terminal
_WARNINGS_KEPT = 20


class Terminal(Listener):
    """Progress and messages go to standard error, the result to standard output. Attributes: warnings (the last 20)."""

    def __init__(self) -> None:
        self.warnings: deque[str] = deque(maxlen=_WARNINGS_KEPT)
        self._console = _console("stderr")
        self._progress = Progress(
            TextColumn("{task.description}"),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            BarColumn(bar_width=20),
            console=self._console,
            refresh_per_second=3,  # the stages need the cores
        )
        self._task = self._progress.add_task("", total=1, figures="")
        self._last_plain = 0.0

    def say(self, text: str) -> None:
        """Print a message."""
        self._console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, and keep it in `warnings`."""
        self.warnings.append(text)
        self._console.print("warning:", text, style="yellow", markup=False, soft_wrap=True)

    def show_split(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """Print the table of blocks and their stages."""
        stages = [stage for stage, blocks in enumerate(split) for _ in range(blocks)]
        table = Table(title="Split")
        for column in ("block", "forward + backward ms", "activation KiB", "stage"):
            table.add_column(column, justify="left" if column == "block" else "right")
        for cost, stage in zip(costs, stages, strict=True):
            table.add_row(cost.name, f"{cost.milliseconds:.2f}", f"{cost.activation_kib:.0f}", str(stage))
        self._console.print(table)

    def begin(self, what: str, total: int) -> None:
        """Start the progress bar of a phase of about `total` ticks."""
        self._progress.reset(self._task, description=what, total=total, figures="")
        if self._console.is_terminal:
            self._progress.start()

    def progress(self, event: ProgressEvent) -> None:
        """Show the progress of the training."""
        totals = event.totals
        self._progress.update(self._task, completed=totals.tick, figures=_figures(totals, by_stage=False))
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_plain >= _PLAIN_EVERY:
            self._last_plain = now
            self.say(f"tick {totals.tick}/{totals.total_ticks}  {_figures(totals, by_stage=True)}")

    def evaluated(self, event: EvaluationEvent) -> None:
        """Print the scores of an evaluation."""
        self.say(f"tick {event.tick}: " + ", ".join(f"{name} {shown(value)}" for name, value in event.figures.items()))

    def rate_changed(self, tick: int, rate: float) -> None:
        """Show the new learning rate."""
        self.say(f"tick {tick}: optimiser.lr was set to {rate:g}")

    def restarted(self, tick: int, restarts: int, seconds: float) -> None:
        """Print that the training has resumed."""
        self.say(f"restart {restarts}: the training resumed {seconds:.1f} s after its last report")

    def close(self, state: State, message: str, tick: int) -> None:
        """Remove the progress bar."""
        self.end()

    def evaluating(self, ticks: int) -> None:
        """Show the progress of an evaluation."""
        self._progress.update(self._task, completed=ticks, figures=f"{ticks} ticks")

    def probed(self, found: dict[str, Any]) -> None:
        """Print how close the pseudo-gradients were to backpropagation's."""
        cosines = "/".join(shown(row["cosine"]) for row in found["stages"])
        ratios = "/".join(shown(row["norm_ratio"]) for row in found["stages"])
        self.say(f"tick {found['tick']}: pseudo-gradients, by stage: cosine {cosines}, norm ratio {ratios}")

    def end(self) -> None:
        """Remove the progress bar."""
        self._progress.stop()

    def result(self, rows: dict[str, Any]) -> None:
        """Print the table of results."""
        table = Table(title="Result", show_header=False)
        for name, value in rows.items():
            table.add_row(name, shown(value))
        _console("stdout").print(table)


def shown(value: object) -> str:
    """A value as text, floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Stream:
    """Standard output or error. Text that cannot be written, because a pipe or terminal is closed or a disk is full,
    is dropped, as the run still has to finish.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._name = name

    @property
    def is_terminal(self) -> bool:
        """Whether it is one."""
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    @property
    def rich_proxied_file(self) -> "_Stream":
        """While a bar is shown, rich replaces sys.stdout and sys.stderr, and finds the original by this name."""
        return self

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> IO[str]:
        stream = getattr(sys, self._name)
        return cast(IO[str], getattr(stream, "rich_proxied_file", stream))


def _console(name: Literal["stdout", "stderr"]) -> Console:
    """A console that is a terminal only if the stream is one, whatever FORCE_COLOR says, which notebooks set."""
    stream = _Stream(name)
    return Console(file=cast(IO[str], stream), highlight=False, force_terminal=stream.is_terminal)


def _figures(totals: RunTotals, by_stage: bool) -> str:
    """One line of figures. `by_stage`: each stage's share of the time that it waits, else that of the busiest."""
    rate = totals.ticks_per_second
    waited = [100 * stage.recent_wait for stage in totals.stages]
    waits = "/".join(f"{wait:.0f}" for wait in waited) if by_stage else f"{min(waited):.0f}"
    parts = [f"{rate:.1f} ticks/s", f"{rate * totals.slots:.0f} frames/s"]
    if totals.loss is not None:
        parts.append(f"loss {totals.loss:.4f}")
    if totals.accuracy is not None:
        parts.append(f"accuracy {totals.accuracy:.3f}")
    return ", ".join([*parts, f"waiting {waits} %"])
