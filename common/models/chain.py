"""An existing model as a sequence of blocks that keeps the model's tensor names.

A plain nn.Sequential prefixes the tensor names of a block with the block's name. A Chain does not: it holds a tree of
the original's modules under their original paths (`layer1` → `0` → …), restricted to what its blocks use, and runs the
blocks over that tree. So `state_dict()`, `named_parameters()` and `get_submodule()` use the original names, for the
whole model and for any part of it. A single block is also a Chain.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """The modules and parameters of the original that a block uses, and how it runs them.

    Attributes:
        holds: their paths in the original.
        run: function (tree, input) → output; by default the modules are applied in sequence.
        keeps: paths of further ones, which it does not run.
    """

    holds: tuple[str, ...]
    run: Callable[[nn.Module, Tensor], Tensor] | None = None
    keeps: tuple[str, ...] = ()

    def steps(self, tree: nn.Module) -> list[Callable[[Tensor], Tensor]]:
        """The functions to apply to an input in sequence, with the modules of `tree`."""
        if self.run is not None:
            return [partial(self.run, tree)]
        return [tree.get_submodule(path) for path in self.holds]


class Chain(nn.Sequential):
    """Blocks over a tree of modules. Length, indexing and slicing refer to blocks; the children are the tree's."""

    def __init__(self, root: nn.Module, blocks: dict[str, Block]) -> None:
        """`root` is the original, or a Chain with at least these blocks. Modules and parameters are shared with it."""
        super().__init__()
        self._chain_blocks = dict(blocks)
        for block in blocks.values():
            for path in (*block.holds, *block.keeps):
                _graft(self, root, path)
        self.training = root.training
        # looked up once, not at each tick; the names of these attributes are no module's
        self._chain_steps = [step for block in blocks.values() for step in block.steps(self)]

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks: [rows, …] → [rows, …]."""
        for step in self._chain_steps:
            x = step(x)
        return x

    def take(self, names: Iterable[str]) -> "Chain":
        """A Chain of the blocks with these names."""
        return Chain(self, {name: self._chain_blocks[name] for name in names})

    @property
    def block_table(self) -> dict[str, Block]:
        """The blocks by name, in order."""
        return dict(self._chain_blocks)

    @property
    def block_names(self) -> list[str]:
        """The names of the blocks, in order."""
        return list(self._chain_blocks)

    def __len__(self) -> int:
        return len(self._chain_blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.take([name]) for name in self._chain_blocks)

    def __getitem__(self, index: int | slice) -> "Chain":
        names = self.block_names[index]
        return self.take([names] if isinstance(names, str) else names)


def runs_in_sequence(model: nn.Module) -> bool:
    """Whether it only runs its blocks one after another: it has no forward method or hooks of its own."""
    own = type(model).forward not in (nn.Sequential.forward, Chain.forward) or "forward" in vars(model)
    hooks = (model._forward_hooks, model._forward_pre_hooks, model._backward_hooks, model._backward_pre_hooks)
    return isinstance(model, nn.Sequential) and not own and not any(hooks)


def layered(model: nn.Sequential, names: Iterable[str]) -> Chain:
    """The same model with every block that only runs layers in sequence split into these layers.

    `names` are those of the model's blocks. The tensors keep their names.
    """
    if not isinstance(model, Chain):
        paths = [path for name in names for path in _leaves(model, name)]
        return Chain(model, {path: Block((path,)) for path in paths})
    blocks: dict[str, Block] = {}
    for name, block in model.block_table.items():
        inner = [path for held in block.holds for path in _leaves(model, held)]
        if block.run is None and len(inner) > 1:
            blocks |= {path: Block((path,)) for path in inner}
            blocks[inner[-1]] = Block((inner[-1],), keeps=block.keeps)
        else:
            blocks[name] = block
    return Chain(model, blocks)


def _leaves(root: nn.Module, path: str) -> list[str]:
    """The paths of the layers inside a plain nn.Sequential; for any other module, its own path."""
    try:
        module = root.get_submodule(path)
    except AttributeError:  # a parameter
        return [path]
    if type(module) is not nn.Sequential or not len(module) or not runs_in_sequence(module):
        return [path]
    return [leaf for name in module._modules for leaf in _leaves(root, f"{path}.{name}")]


def _graft(tree: nn.Module, root: nn.Module, path: str) -> None:
    """Add the module, parameter or buffer at `path` of `root` to `tree`, at the same path."""
    *above, name = path.split(".")
    for step in above:
        root = getattr(root, step)
        if step not in tree._modules:
            tree.add_module(step, nn.Module())
        tree = tree.get_submodule(step)
        tree.training = root.training
    value = getattr(root, name)
    if isinstance(value, nn.Parameter):
        tree.register_parameter(name, value)
    elif isinstance(value, Tensor):
        saved = name in root._buffers and name not in root._non_persistent_buffers_set  # not a plain attribute
        tree.register_buffer(name, value, persistent=saved)
    else:
        tree.add_module(name, value)
