"""Models for timing: equal blocks, so that a split is balanced by counting them."""

from torch import nn


def convolutions(blocks: int = 8, width: int = 48) -> nn.Sequential:
    """Equal 3 × 3 convolutions at the frames' full size; the last pools and classifies."""
    layers: list[nn.Module] = [_block(3, width), *(_block(width, width) for _ in range(blocks - 1))]
    layers[-1] = nn.Sequential(layers[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(*layers)


def _block(incoming: int, outgoing: int) -> nn.Module:
    # the first layer repeats the frame's channels, so that it costs what the others cost
    layer: nn.Module = nn.Conv2d(outgoing, outgoing, 3, padding=1)
    if incoming != outgoing:
        layer = nn.Sequential(nn.Conv2d(incoming, outgoing, 1), layer)
    return nn.Sequential(layer, nn.ReLU())


def tiny(blocks: int = 2) -> nn.Sequential:
    """Next to no compute, activations of 4 KiB for 8 rows: what is left is the cost of a tick."""
    layers = [nn.Sequential(nn.Flatten(), nn.Linear(192, 128)), *(nn.Linear(128, 128) for _ in range(blocks - 1))]
    return nn.Sequential(*layers)
