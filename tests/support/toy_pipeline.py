"""A pipeline of small layers, and frames for it."""

import torch
from torch import Tensor, nn

from common.config.settings import Config, Data, Optimiser, Rule, TaskName
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.stage import Stage

SGD = Optimiser(name="SGD", lr=0.05, lr_by_mismatch=False, args={})


FROZEN = Optimiser(name="SGD", lr=0.0, args={})


ROWS, WIDTH = 4, 6


def model(stages: int, dtype: torch.dtype = torch.float64, out: int = 5) -> list[nn.Sequential]:
    torch.manual_seed(stages)
    widths = [WIDTH] * stages + [out]
    return [nn.Sequential(nn.Linear(widths[i], widths[i + 1]), nn.Tanh()).to(dtype) for i in range(stages)]


def learning(stages: int, optimiser: Optimiser, rule: Rule | None = None, task: TaskName = "classify") -> Config:
    return Config(
        stages=stages,
        task=task,
        ticks=1,
        data=Data(train="."),
        rule=rule or Rule(),
        optimiser=optimiser,
    )


def pipeline(
    parts: list[nn.Sequential], optimiser: Optimiser, rule: Rule | None = None, task: TaskName = "classify"
) -> Reference:
    config = learning(len(parts), optimiser, rule, task)
    stages = [Stage(part, i, config) for i, part in enumerate(parts)]
    return Reference(stages, (ROWS, WIDTH), next(parts[0].parameters()).dtype)


def packet(tick: int, values: Tensor, labels: Tensor, clips: list[int] | None = None) -> Packet:
    made = Packet(values.shape, values.dtype)
    made.set_header(tick - 1, tick)
    made.clips[:], made.labels[:] = clips or list(range(ROWS)), labels.numpy()
    made.tensor.copy_(values)
    return made


def random_frames(ticks: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(99)
    return [(torch.randn(ROWS, WIDTH, dtype=dtype), torch.randint(0, 5, (ROWS,))) for _ in range(ticks)]
