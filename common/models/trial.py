"""Running a model on trial: on some frames, without a trace in the model or in the random numbers of others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

Values = dict[fx.Node, object]


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Inside this context random numbers are those of seed 0. Afterwards they, and the buffers, are as before."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield
        for name, value in model.named_buffers():
            if name in before and value.shape == before[name].shape:  # else it was made for inputs of this size
                value.copy_(before[name])


def numbers(root: nn.Module, graph: fx.Graph, frames: Tensor) -> tuple[Values, set[fx.Node]]:
    """The numbers in a model's graph that are the same however many frames of this size it is given.

    Args:
        graph: of the model's forward method, in its present mode.
        frames: [rows, …], more than one row.

    Returns:
        The values of nodes that are numbers, or tuples of them, and the nodes whose value is the number of rows.
    """
    first = _plain_values(root, graph, frames)
    second = _plain_values(root, graph, torch.cat([frames, frames[:1]]))
    fixed = {node: value for node, value in first.items() if second.get(node) == value}
    rows = {node for node, value in first.items() if value == len(frames) and second.get(node) == len(frames) + 1}
    return fixed, rows


def about_time_axis(model: nn.Module) -> str:
    """What to add to the error of a model that fails on frames: that it has layers over clips; empty if it has none."""
    layers = {type(each).__name__ for each in model.modules() if type(each).__module__.startswith("torch.nn.")}
    found = sorted(name for name in layers if name.endswith("3d"))
    if not found:
        return ""
    return (
        f". A block is given one frame of each slot, [slots, channels, height, width], without an axis of time, so "
        f"{', '.join(found)} cannot be used: take 2D layers, and sideways.CausalConv, Motion, TemporalShift or ConvGRU "
        "to see earlier frames (docs/models.md)"
    )


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the values that are numbers."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, graph=graph)
        self.values: Values = {}

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node."""
        value = super().run_node(n)
        if n.op != "output" and _is_plain(value) and _is_of_sizes(n, self.values):
            self.values[n] = value
        return value


def _is_of_sizes(n: fx.Node, sizes: Values) -> bool:
    """Whether a number is a tensor's size, or computed from sizes alone: not from pixels or parameters."""
    if n.target == "size" or (n.target is getattr and n.args[1] in ("shape", "ndim")):
        return True
    return n.op == "call_function" and all(each in sizes for each in n.all_input_nodes)


def _plain_values(root: nn.Module, graph: fx.Graph, frames: Tensor) -> Values:
    recorder = _Recorder(root, graph)
    with unchanged(root):
        recorder.run(frames.clone())
    return recorder.values


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, int | float)
