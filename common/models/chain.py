"""An existing model as a sequence of blocks that keep the model's own names.

A block of a plain nn.Sequential puts its own name before those of its tensors. A Chain does not: it holds a tree of
the original's modules under their original paths (`layer1` → `0` → …), cut down to what its blocks use, and runs
the blocks over that tree. So `state_dict()`, `named_parameters()` and `get_submodule()` all say the original's names,
for the whole model and for any part of it, and one block alone is a Chain too.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """Which modules or parameters of the original a block holds, and what it does with them.

    Attributes:
        holds: their paths in the original.
        run: tree and input → output; by default the modules are applied one after another.
    """

    holds: tuple[str, ...]
    run: Callable[[nn.Module, Tensor], Tensor] | None = None

    def steps(self, tree: nn.Module) -> list[Callable[[Tensor], Tensor]]:
        """What is done to an input one after another, with what `tree` holds."""
        if self.run is not None:
            return [partial(self.run, tree)]
        return [tree.get_submodule(path) for path in self.holds]


class Chain(nn.Sequential):
    """Blocks over a tree of modules. Its length, its items and its slices are blocks; its children are the tree's."""

    def __init__(self, root: nn.Module, blocks: dict[str, Block]) -> None:
        """`root` is the original, or a Chain that holds at least these blocks. Modules and parameters are shared."""
        super().__init__()
        self._blocks = dict(blocks)
        for block in blocks.values():
            for path in block.holds:
                _graft(self, root, path)
        self.training = root.training
        self._steps = [step for block in blocks.values() for step in block.steps(self)]  # looked up once, not each tick

    def forward(self, x: Tensor) -> Tensor:
        """[rows, …] → [rows, …]."""
        for step in self._steps:
            x = step(x)
        return x

    def take(self, names: Iterable[str]) -> "Chain":
        """The blocks of these names."""
        return Chain(self, {name: self._blocks[name] for name in names})

    @property
    def blocks(self) -> dict[str, Block]:
        """What they hold and do, by name."""
        return dict(self._blocks)

    @property
    def block_names(self) -> list[str]:
        """In their order."""
        return list(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self.take([name]) for name in self._blocks)

    def __getitem__(self, index: int | slice) -> "Chain":
        names = self.block_names[index]
        return self.take([names] if isinstance(names, str) else names)


def layered(model: nn.Sequential, names: Iterable[str]) -> Chain:
    """The same model, with the layers inside its blocks for blocks, as far as they are plain sequences.

    `names` of the model's blocks. The tensors keep their names.
    """
    if not isinstance(model, Chain):
        paths = [path for name in names for path in _leaves(model, name)]
        return Chain(model, {path: Block((path,)) for path in paths})
    blocks: dict[str, Block] = {}
    for name, block in model.blocks.items():
        inner = [path for held in block.holds for path in _leaves(model, held)]
        if block.run is None and len(inner) > 1:
            blocks |= {path: Block((path,)) for path in inner}
        else:
            blocks[name] = block
    return Chain(model, blocks)


def _leaves(root: nn.Module, path: str) -> list[str]:
    """The paths of what a plain sequence runs one after another; of anything else, its own."""
    try:
        module = root.get_submodule(path)
    except AttributeError:  # a parameter
        return [path]
    if type(module) is not nn.Sequential or not len(module):
        return [path]
    return [leaf for name in module._modules for leaf in _leaves(root, f"{path}.{name}")]


def _graft(tree: nn.Module, root: nn.Module, path: str) -> None:
    """Put what `root` has at `path` at the same path of `tree`."""
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
    else:
        tree.add_module(name, value)
