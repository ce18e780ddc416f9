"""What CUDA graphs do, on the CPU: operators are recorded with their memory and their numbers, and done again there."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.rule.graphs import Work

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(name in str(func) for name in WAITING):
            raise RuntimeError(f"{func} waits for the device, which cannot be captured")
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(found)))
        return found

    def replay(self) -> None:
        """Do it again: results go where those of the recording are."""
        with torch.no_grad():
            for func, args, kwargs, kept in self.calls:
                for new, old in zip(_tensors(func(*args, **kwargs)), kept, strict=True):
                    if new.data_ptr() != old.data_ptr():  # else a view, or computed in place
                        old.copy_(new)


def _tensors(found: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


class Tape:
    """A recorder of operators.

    Attributes:
        recorded: number of recordings.
        replayed: number of replays.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def renew(self) -> None:
        """It has no memory to share."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def record(self, work: Work) -> Work:
        self.recorded += 1
        recording = _Recording()
        with recording:
            work()

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return replay
