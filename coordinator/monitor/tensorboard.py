"""TensorBoard event files in RUN/tensorboard: `tensorboard --logdir runs` shows them.

They are optional: an error while writing one is reported once, ends the writing, and does not end the run.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.partition.balance import BlockCost, by_stage
from common.run_registry.records import State
from coordinator.monitor.figures import curves
from coordinator.monitor.listener import EvaluationEvent, Listener, ProgressEvent

FOLDER = "tensorboard"
_PICTURES = 8


class EventFiles(Listener):
    """Writes scalars, tables and images; steps are ticks."""

    def __init__(self, run: Path, warn: Callable[[str], None], first: int | None = None) -> None:
        """Open a file.

        Args:
            run: the run directory.
            warn: called once, when nothing more can be written.
            first: of a run that goes on: TensorBoard hides earlier files' data from this tick on, as they come again.
        """
        self._warn = warn
        self._writer: Any = None
        self._given_up = False
        self._try(lambda: self._open(run / FOLDER, first))

    def progress(self, event: ProgressEvent) -> None:
        """Every number of the report becomes a scalar `stage i/name`."""
        self._scalars(f"stage {event.report.stage}", event.line, event.report.tick)

    def probed(self, found: dict[str, Any]) -> None:
        """The probe's figures as scalars `probe i/name`, i the stage."""
        for row in found["stages"]:
            self._scalars(f"probe {row['stage']}", row, int(found["tick"]))

    def measured(self, costs: Sequence[BlockCost], split: Sequence[int]) -> None:
        """The blocks, their costs and their stages, as a table."""
        rows = ["| block | stage | parameters | forward + backward ms | activation KiB |", "|---|---|---|---|---|"]
        for stage, part in enumerate(by_stage(costs, split)):
            for cost in part:
                figures = f"{cost.parameters} | {cost.milliseconds:.2f} | {cost.activation_kib:.0f}"
                rows.append(f"| {cost.name} | {stage} | {figures} |")
        self._try(lambda: self._writer.add_text("partition", "\n".join(rows), 0))

    def evaluated(self, event: EvaluationEvent) -> None:
        """The figures as scalars `evaluation/name`; the confusion matrix, and up to 8 frames with their outputs."""
        self._scalars("evaluation", event.figures, event.tick)
        confusion, pictures = event.evaluation.confusion, event.pictures
        if confusion is not None:
            self._try(lambda: self._confusion(event.tick, confusion, list(event.classes)))
        if pictures is not None:
            self._try(lambda: self._pictures(event.tick, *(each[:_PICTURES] for each in pictures)))

    def close(self, state: State, message: str, tick: int) -> None:
        """Flush and close the file."""
        self._try(lambda: self._writer.close())
        self._given_up = True

    def _open(self, folder: Path, first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

        _silence_its_thread()
        self._writer = SummaryWriter(str(folder), flush_secs=10, purge_step=first)

    def _scalars(self, where: str, figures: Mapping[str, Any], tick: int) -> None:
        for name, value in curves(where, figures).items():
            self._try(partial(self._scalar, name, value, tick))

    def _scalar(self, name: str, value: float, tick: int) -> None:
        self._writer.add_scalar(name, value, tick)

    def _confusion(self, tick: int, confusion: Tensor, classes: list[str]) -> None:
        from coordinator.monitor.confusion_plot import confusion_figure, pixels

        picture = pixels(confusion_figure(confusion, classes))
        self._writer.add_image("confusion", picture, tick, dataformats="HWC")

    def _pictures(self, tick: int, frames: Tensor, reconstructions: Tensor) -> None:
        self._writer.add_images("frame and reconstruction", torch.cat([frames, reconstructions], dim=3).cpu(), tick)

    def _try(self, action: Callable[[], object]) -> None:
        if self._given_up:
            return
        try:
            action()
        except Exception as error:  # from the disk or any library in between
            self._given_up = True
            self._warn(f"TensorBoard files are no longer written: {error}. The run continues without them")


def _silence_its_thread() -> None:
    """Suppress tracebacks of TensorBoard's writer thread: its errors are raised again by the next write."""
    others = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            others(arguments)

    threading.excepthook = hook
