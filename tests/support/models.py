"""Models for the tests."""

import os
import signal
import time
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_dropout(classes: int, rate: float = 0.3) -> nn.Sequential:
    """Five blocks, four of them with dropout."""

    def block(incoming: int, outgoing: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(incoming, outgoing, 3, stride, padding=1)
        return nn.Sequential(convolution, nn.GroupNorm(2, outgoing), nn.ReLU(), nn.Dropout(rate))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    return nn.Sequential(block(3, 8, 2), block(8, 8, 1), block(8, 16, 2), nn.Dropout(rate), head)


class ChannelsToEnd(nn.Module):
    """A convolution whose output is not contiguous, as that of ConvNeXt's blocks."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(incoming, outgoing, 3, stride, padding=1), nn.LayerNorm(outgoing)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, height, width], as a view of [rows, height, width, channels]."""
        normed: Tensor = self.norm(self.convolution(x).relu().permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


def not_contiguous(classes: int) -> nn.Sequential:
    """Four blocks."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(ChannelsToEnd(3, 8, 2), ChannelsToEnd(8, 8, 1), ChannelsToEnd(8, 8, 1), head)


class FailAt(nn.Module):
    """The identity, which fails at a tick of the training in a stage's process; only once if `marker` names a file."""

    def __init__(self, stage: int, tick: int, how: str, marker: str) -> None:
        super().__init__()
        self.stage, self.tick, self.how, self.marker = stage, tick, how, marker
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        trains = self.training and torch.is_grad_enabled() and os.environ.get("RANK") == str(1 + self.stage)
        if trains:
            if self.forwards == self.tick - self.stage and not (self.marker and Path(self.marker).exists()):
                self._fail()
            self.forwards += 1
        return x

    def _fail(self) -> None:
        if self.marker:
            Path(self.marker).touch()
        if self.how == "raise":
            raise ValueError("this block fails on purpose")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)


def fail_at(classes: int, stage: int, tick: int, how: str, marker: str = "") -> nn.Sequential:
    """Six blocks for the split [2, 2, 2], of which stage 1 or 2 fails at `tick`. `how` is raise, kill or hang."""

    def block(incoming: int, outgoing: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(incoming, outgoing, 3, stride, padding=1)
        return nn.Sequential(convolution, nn.GroupNorm(2, outgoing), nn.ReLU())

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))
    widths = [(3, 8, 2), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 16, 1)]
    blocks: list[nn.Module] = [*(block(*each) for each in widths), head]
    blocks[2 * stage] = nn.Sequential(FailAt(stage, tick, how, marker), blocks[2 * stage])
    return nn.Sequential(*blocks)


class KillsAnother(nn.Module):
    """The identity, which kills another process of a run, once, from stage 0 of the second of two two-stage replicas.

    The first replica's stage 0 also runs its blocks to time them.

    `moment`: "training N", when N ticks of the training are done, or "evaluation", in the second tick of one.
    """

    def __init__(self, who: str, moment: str, marker: str) -> None:
        super().__init__()
        kind, _, number = moment.partition(" ")
        self.who, self.trains, self.at, self.marker = who, kind == "training", int(number or 1), marker
        self.trained = self.evaluated = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        if os.environ.get("RANK") == "3":
            self._count()
        return x

    def _count(self) -> None:
        training = self.training and torch.is_grad_enabled()
        done = self.trained if training else self.evaluated
        due = training == self.trains and done == self.at and (training or self.trained > 0)
        if due and not Path(self.marker).exists():
            Path(self.marker).touch()
            process_of(os.getppid(), self.who).kill()
        self.trained += training
        self.evaluated += not training and self.trained > 0


def process_of(launcher: int, who: str) -> psutil.Process:
    """A process of a run: "coordinator", "stage0", "reader0", "redis", or "decoder of …"."""
    parent = who.removeprefix("decoder of ")
    children = psutil.Process(launcher).children(recursive=True)
    if who == "redis":
        return next(child for child in children if "redis-server" in " ".join(child.cmdline()))
    found = next(child for child in children if child.name() == parent)
    if parent == who:
        return found
    return next(child for child in found.children() if "coordinator.video.decoder_pool.worker" in child.cmdline())


def kills_another(classes: int, who: str, moment: str, marker: str) -> nn.Sequential:
    """Six blocks for the split [3, 3], of which the first kills a process of the run."""
    blocks = list(fail_at(classes, 1, -1, "raise"))
    return nn.Sequential(nn.Sequential(KillsAnother(who, moment, marker), blocks[0]), *blocks[1:])


def user_model(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(f"from torch import nn\n{body}\n")
    return f"{folder / 'mine.py'}:build"


class Residual(nn.Module):
    """A residual block with BatchNorm and dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, channels, height, width] → the same shape."""
        return self.drop(self.act(x + self.bn(self.conv(x))))


class Whole(nn.Module):
    """A classifier that is no sequence: modules with weights, and operations between them in its forward method."""

    scale: Tensor

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
        self.offset = nn.Parameter(torch.full((8, 1, 1), 0.1))
        self.register_buffer("scale", torch.full((8, 1, 1), 0.7))
        self.stages = nn.ModuleList(nn.Sequential(Residual(8), Residual(8)) for _ in range(2))
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """[rows, channels, height, width] → [rows, classes]."""
        x = F.relu(self.stem(2 * x)) * self.scale + self.offset
        for stage in self.stages[start:]:
            x = stage(x)
        x = F.dropout(x.mean((2, 3)), 0.1, self.training)
        if self.training:
            x = x * 1.5
        return self.head(x)


def whole(classes: int, channels: int = 3) -> nn.Module:
    """A model that is cut into blocks."""
    return Whole(classes, channels)
