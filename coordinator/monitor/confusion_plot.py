"""A plot of a confusion matrix, drawn without a display."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from common.run_registry.records import plain

_NAMED = 60  # classes; the names of more would be too small to read
_NUMBERED = 20  # classes; the same for the numbers in the cells


def confusion_figure(confusion: Tensor, classes: list[str]) -> Figure:
    """A confusion matrix; colours are fractions of rows. confusion: int64 [classes, classes], rows the true classes."""
    count = len(classes)
    figure = Figure(figsize=(min(16, 3 + 0.4 * count), min(16, 2.5 + 0.4 * count)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    figure.colorbar(axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1), label="fraction of the class's clips")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if count <= _NAMED:
        names = [plain(name if len(name) <= 24 else f"{name[:23]}…") for name in classes]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
    if count <= _NUMBERED:
        for row, column in confusion.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(confusion[row, column])), ha="center", va="center", color=colour)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as uint8 [height, width, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
