"""Layers that write to their input: not where that is a receive buffer."""

from torch import nn


def forbid_in_place_on_input(blocks: nn.Module) -> None:
    """Make layers out-of-place that could write to the input, such as ReLU(inplace=True).

    The input is a leaf in a receive buffer. Before the first layer with parameters, a layer's input may be that tensor
    or share memory with it.
    """
    for module in blocks.modules():
        if list(module.children()):
            continue
        if list(module.parameters()):
            return
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
