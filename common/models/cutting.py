"""Any model as a chain of blocks, cut where a single tensor passes.

The model's forward method is traced, in training and in evaluation mode, and cut (module_graph.py). The blocks run the
model's own modules, and what its forward method computes between them, and are tried against the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.models.chain import Block, Chain
from common.models.module_graph import ModuleGraph, Part
from common.models.trial import about_time_axis, unchanged
from common.processes.user_errors import describe_error

_ROWS = 2  # of the example: BatchNorm needs more than one


@dataclass(frozen=True)
class Cut:
    """A model as blocks.

    Attributes:
        chain: the blocks.
        obstacles: where else a block might begin, but for what passes there, one sentence each.
    """

    chain: Chain
    obstacles: list[str]


def cut(root: nn.Module, frame: Sequence[int]) -> Cut:
    """Cut a model that takes frames, [rows, *frame], into as many blocks as possible.

    Raises:
        ConfigError: it fails on such frames, its forward method cannot be traced, or its blocks would compute something
            else than the model does.
    """
    x = torch.randn(_ROWS, *frame, generator=torch.Generator().manual_seed(0))
    expected = {training: _output(root.train(training), x) for training in (False, True)}
    graphs = ModuleGraph(root.eval(), x), ModuleGraph(root.train(), x)
    starts = [name for name in graphs[0].starts if name in graphs[1].starts]
    chain = _chain(root, graphs, starts)
    obstacles = list(graphs[0].obstacles)
    while unfit := _unfit(chain.eval(), x.clone()):
        path, what = unfit
        obstacles.append(f"at {path}, {what} passes")
        starts = [name for name in starts if graphs[0].starts[name] != path]
        chain = _chain(root, graphs, starts)
    for mode, output in expected.items():
        _compare(output, _output(chain.train(mode), x))
    return Cut(chain, obstacles)


def _chain(root: nn.Module, graphs: tuple[ModuleGraph, ModuleGraph], starts: Sequence[str]) -> Chain:
    """The blocks that begin at these modules, and the one before them."""
    names = [graphs[0].first, *(graphs[0].starts[name] for name in starts)]
    parts = zip(*(graph.parts(starts) for graph in graphs), strict=True)
    return _with_all_names(root, Chain(root, {name: _block(*pair) for name, pair in zip(names, parts, strict=True)}))


def _unfit(chain: Chain, x: Tensor) -> tuple[str, str] | None:
    """The first block whose input is no floating-point tensor with a row for each frame, and what it is."""
    value, rows = x, len(x)
    for name, block in zip(chain.block_names, chain, strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return name, str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        if value.ndim == 0 or len(value) != rows:
            return name, f"a tensor {list(value.shape)}, for {rows} frames,"
        with torch.no_grad():
            value = block(value)
    return None


def _block(evaluating: Part, training: Part) -> Block:
    """A block that runs the one part in evaluation and the other in training mode."""
    if evaluating.code == training.code:
        return Block(evaluating.holds, evaluating.run)
    runs = [part.run or _in_sequence(part.holds) for part in (evaluating, training)]
    holds = dict.fromkeys((*evaluating.holds, *training.holds))
    return Block(tuple(holds), lambda tree, x: runs[tree.training](tree, x))


def _in_sequence(paths: Sequence[str]) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(tree: nn.Module, x: Tensor) -> Tensor:
        for path in paths:
            x = tree.get_submodule(path)(x)
        return x

    return run


def _with_all_names(root: nn.Module, chain: Chain) -> Chain:
    """The same chain, in which blocks also keep the model's other names: of tensors that are shared, or not used."""
    missing = [name for name in root.state_dict() if name not in chain.state_dict()]
    if not missing:
        return chain
    blocks, tensors = chain.block_table, root.state_dict(keep_vars=True)
    owners = {id(value): name for name in blocks for value in chain.take([name]).state_dict(keep_vars=True).values()}
    for name in missing:
        owner = owners.get(id(tensors[name]), chain.block_names[-1])
        blocks[owner] = replace(blocks[owner], keeps=(*blocks[owner].keeps, name))
    return Chain(root, blocks)


def _compare(expected: Tensor, found: Tensor) -> None:
    """Raise ConfigError if an output is not the model's, bit for bit."""
    if not torch.equal(expected, found):
        raise ConfigError(
            f"cut into blocks, it would compute something else: its output differs by "
            f"{float((expected - found).abs().max()):.3g}"
        )


def _output(model: nn.Module, x: Tensor) -> Tensor:
    """The output for x. Raises ConfigError if the model fails, or returns something else than a tensor."""
    with unchanged(model):
        try:
            y = model(x.clone())
        except Exception as error:  # the user's code may raise anything
            reason = f"{describe_error(error)}{about_time_axis(model)}"
            raise ConfigError(f"it fails on frames {list(x.shape)}: {reason}") from error
    if not isinstance(y, Tensor):
        raise ConfigError(f"in {'training' if model.training else 'evaluation'} it returns {type(y).__name__}")
    return y
