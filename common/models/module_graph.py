"""The graph of a model's forward method, and the places where it can be cut: where a single tensor passes."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, fx, nn

from common.models.tracing import trace
from common.models.trial import Values, numbers

_SHOWN = 4
_READING = (getattr, operator.getitem, "size")  # what may give numbers
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


@dataclass(frozen=True)
class Part:
    """A part of a model's graph, from one tensor to one tensor.

    Attributes:
        holds: paths of the modules, parameters and buffers that it uses, in order.
        code: of the function that it computes.
        run: the function (tree, x) → y, compiled from it; None if it only applies the modules in sequence.
    """

    holds: tuple[str, ...]
    code: str
    run: Callable[[nn.Module, Tensor], Tensor] | None


class ModuleGraph:
    """The graph of a model in its present mode, training or evaluation.

    A block can begin at a module with weights, such as a residual block or a convolution, or shortly before it, where
    one tensor passes from what is before to what follows, and no parameter is used on both sides.

    Attributes:
        starts: the modules' paths, by their names in the graph, which are those of the graph in the other mode.
        obstacles: a sentence for each module with weights at which no block can begin, with what passes there.
    """

    def __init__(self, root: nn.Module, frames: Tensor) -> None:
        """Trace the model's forward method.

        `frames`: on which the model may be tried, to find out which numbers depend on their size alone.

        Raises:
            ConfigError: it cannot be traced.
        """
        self._root, self._modules = root, dict(root.named_modules())
        self._parameters = dict(root.named_parameters(remove_duplicate=False))
        graph = trace(root)
        self._input, *self._all, output = graph.nodes
        self._output = output.args[0]
        self._numbers: Values = {}  # which are the same for all frames
        self._rows: set[fx.Node] = set()  # the number of rows, which every block can see
        if any(node.target in _READING for node in self._all):
            self._numbers, self._rows = numbers(root, graph, frames)
        self._find_starts()

    @property
    def first(self) -> str:
        """The path of the first module."""
        return next((str(node.target) for node in self._nodes if node.op == "call_module"), "model")

    def parts(self, starts: Sequence[str]) -> Iterator[Part]:
        """The parts that begin at these of `starts`, in order, and first the one before them."""
        places = [0, *(self._places[name] for name in starts), len(self._nodes)]
        x = self._input
        for begin, end in pairwise(places):
            nodes = self._nodes[begin:end]
            passing = {each for node in self._nodes[end:] for each in self._inputs(node)} & {x, *nodes}
            y = passing.pop() if end < len(self._nodes) else self._output
            yield self._part(x, nodes, y)
            x = y

    def _part(self, x: fx.Node, nodes: Sequence[fx.Node], y: fx.Node) -> Part:
        graph = fx.Graph()
        copies: dict[fx.Node, Any] = {x: graph.placeholder("x"), **self._numbers}

        def copy(node: fx.Node) -> Any:
            if node not in copies and node in self._rows:
                copies[node] = graph.call_method("size", (copies[x], 0))
            if node not in copies:
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        for node in nodes:
            copy(node)
        graph.output(copy(y))
        holds = dict.fromkeys(str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr"))
        run = None if _is_row([x, *nodes]) else type(fx.GraphModule(self._root, graph)).forward
        return Part(tuple(holds), graph.python_code("self").src, run)

    # ---- where to cut

    def _find_starts(self) -> None:
        self._free = {*self._numbers, *self._rows}  # and constants: every block computes them for itself
        for node in self._all:
            if self._is_constant(node):
                self._free.add(node)
        self._nodes = [node for node in self._all if node not in self._free]
        self._place = {node: place for place, node in enumerate(self._nodes)}
        self.starts: dict[str, str] = {}
        self.obstacles: list[str] = []
        self._places: dict[str, int] = {}  # where the blocks begin
        passing = self._passing()
        modules = [node for node in self._nodes if self._has_kernels(node)]
        for before, node in pairwise(modules):
            earliest, place = self._place[before] + 1, self._place[node]
            fit = [at for at in range(earliest, place + 1) if len(passing[at]) == 1 and self._may_begin(at)]
            if fit:
                self.starts[node.name], self._places[node.name] = str(node.target), fit[-1]
            else:
                fewest = min(passing[earliest : place + 1], key=len)
                self.obstacles.append(f"at {node.target}, {_listed(fewest)} pass")

    def _passing(self) -> list[list[str]]:
        """What passes at each place, from before it to what follows: values, and parameters used on both sides."""
        passing: list[list[str]] = [[] for _ in self._nodes]
        for name, first, last in self._spans():
            for place in range(first + 1, min(last + 1, len(passing))):
                passing[place].append(name)
        return passing

    def _may_begin(self, place: int) -> bool:
        """Whether the node there leaves its input as it is: a block's input may not be changed."""
        node = self._nodes[place]
        method = node.op == "call_method" and str(node.target).endswith("_")
        return not (method or (node.op == "call_function" and node.target in _IN_PLACE))

    def _has_kernels(self, node: fx.Node) -> bool:
        """Whether it is a module with weights, and no mere normalisation, whose parameters are vectors."""
        return node.op == "call_module" and any(each.ndim > 1 for each in self._modules[node.target].parameters())

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        """Of every value and every parameter: its name, the first place where it is, and the last where it is used."""
        places: dict[str, list[int]] = {}
        for node in self._nodes:
            for value in self._inputs(node):
                places.setdefault(value.name, [self._place.get(value, -1)]).append(self._place[node])
            for parameter in sorted(self._weights(node)):
                places.setdefault(parameter, []).append(self._place[node])
        places.setdefault(self._output.name, [self._place.get(self._output, -1)]).append(len(self._nodes))
        return ((name, min(of), max(of)) for name, of in places.items())

    def _inputs(self, node: fx.Node) -> Iterator[fx.Node]:
        return (each for each in node.all_input_nodes if each not in self._free)

    def _weights(self, node: fx.Node) -> set[str]:
        """The parameters that a node uses, by the first of their names."""
        paths = {str(each.target) for each in node.all_input_nodes if self._is_parameter(each)}
        if node.op == "call_module":
            paths |= {f"{node.target}.{name}" for name, _ in self._modules[node.target].named_parameters()}
        return {next(n for n, value in self._parameters.items() if value is self._parameters[path]) for path in paths}

    def _is_constant(self, node: fx.Node) -> bool:
        """Whether it depends on neither frames nor parameters. A parameter itself is fetched wherever it is used."""
        if node.op == "get_attr":
            return True
        if node.op == "call_module" and next(self._modules[node.target].parameters(), None) is not None:
            return False
        return all(each in self._free and not self._is_parameter(each) for each in node.all_input_nodes)

    def _is_parameter(self, node: fx.Node) -> bool:
        return node.op == "get_attr" and node.target in self._parameters


def _is_row(nodes: Sequence[fx.Node]) -> bool:
    """Whether all nodes but the first are modules, each applied to the output of the one before, and nothing else."""
    applied = [node.op == "call_module" and node.args == (x,) and not node.kwargs for x, node in pairwise(nodes)]
    return bool(applied) and all(applied)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = [f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return " and ".join([", ".join(names[:_SHOWN]), *more])
