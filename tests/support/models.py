"""Models of the tests."""

from torch import nn


def with_dropout(classes: int, rate: float = 0.3) -> nn.Sequential:
    """Five blocks, four of which drop out."""

    def block(incoming: int, outgoing: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(incoming, outgoing, 3, stride, padding=1)
        return nn.Sequential(convolution, nn.GroupNorm(2, outgoing), nn.ReLU(), nn.Dropout(rate))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    return nn.Sequential(block(3, 8, 2), block(8, 8, 1), block(8, 16, 2), nn.Dropout(rate), head)
