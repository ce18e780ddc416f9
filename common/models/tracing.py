"""The graph of a model's forward method, by torch.fx, of whole modules rather than of their operations.

Modules stay what they are, and run as they would: what they do in training (dropout, BatchNorm) stays with them. Only
the forward methods of those that hold rows of others (stages of blocks) are traced, as far as fx can.
"""

import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import fx, nn

from common.errors import ConfigError


def trace(root: nn.Module) -> fx.Graph:
    """The graph of `root` in its present mode, training or evaluation: from one placeholder to one output.

    Raises:
        ConfigError: the forward method depends on values, or needs more than one argument.
    """
    whole: set[str] = set()
    while True:
        tracer = _Tracer(whole)
        try:
            return tracer.trace(root)
        except Exception as error:  # the model's code may raise anything when its input is not a tensor
            if tracer.failed is None:
                name, reason = type(root).__name__, str(error).partition("\n")[0].partition(". ")[0]
                raise ConfigError(f"{name}.forward cannot be traced: {type(error).__name__}: {reason}") from error
            whole.add(tracer.failed)


class _Tracer(fx.Tracer):
    """Traces the forward methods of the root and of what holds rows of modules.

    Attributes:
        failed: path of the innermost module whose forward method could not be traced; None if it was the root's.
    """

    proxy_buffer_attributes = True  # or what is computed from buffers would be computed now, before weights are loaded

    def __init__(self, whole: set[str]) -> None:
        """`whole`: paths of modules that are not to be traced."""
        functions, self._untraceable = _timms_exceptions()
        super().__init__(autowrap_functions=functions)
        self._whole = whole
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is a node of the graph."""
        if module_qualified_name in self._whole or isinstance(m, self._untraceable):
            return True
        return not (type(m).forward is nn.Sequential.forward or _holds_rows(m))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace a module's call, or make it a node."""
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The arguments of the forward method: the frames. All others have their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "frames", (), {})]


def _holds_rows(module: nn.Module) -> bool:
    """Whether it is, or below it there is, a row of modules that have children: the blocks of a stage."""
    children = list(module.children())
    rows = [list(child.children()) for child in children if isinstance(child, nn.Sequential | nn.ModuleList)]
    if len(children) > 1 and len({type(child) for child in children}) == 1:
        rows.append(children)
    return any(map(_has_children, chain.from_iterable(rows))) or any(map(_holds_rows, children))


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _timms_exceptions() -> tuple[tuple[Callable[..., Any], ...], tuple[type[nn.Module], ...]]:
    """The functions and classes that timm, if it is in use, says that fx cannot trace."""
    layers: Any = sys.modules.get("timm.layers")
    return (tuple(layers.get_notrace_functions()), tuple(layers.get_notrace_modules())) if layers else ((), ())
