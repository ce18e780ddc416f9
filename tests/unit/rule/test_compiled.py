"""compile: gradients outlive the graphs that torch replays, and each forward pass begins a step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.config.run_file import parse
from common.errors import ConfigError
from common.rule import compiled, stage
from common.rule.packet import Packet
from common.rule.reference import build_stages
from tests.support.settings import config_of, settings

SHAPE = 3, 3, 16, 16


def fake(blocks: nn.Module, how: object) -> Any:
    """Blocks whose gradients are in memory that the next backward pass overwrites, as those of torch's graphs."""
    pools: dict[str, Tensor] = {}

    class Reused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: Tensor, name: str) -> Tensor:
            ctx.name = name
            return weight.view_as(weight)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
            pool = pools.setdefault(ctx.name, torch.empty_like(gradients[0]))
            pool.copy_(gradients[0])
            return pool.detach(), None  # shares the memory, and may be kept by autograd

    def run(x: Tensor) -> Tensor:
        weights = {name: Reused.apply(value, name) for name, value in blocks.named_parameters()}
        y: Tensor = torch.func.functional_call(blocks, weights, (x,))
        return y

    return run


@pytest.mark.parametrize("keeps", [True, False])
def test_gathered_gradients_are_not_overwritten_by_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    """Without memory that stays they are: so the fake is like torch's graphs."""
    monkeypatch.setattr(stage, "compiled", fake)
    changes = {"stages": 1, "rule__every": 3, "optimiser": {"name": "SGD", "lr": 0.1}}
    graphs = "reduce-overhead" if keeps else True
    plain, own = (build_stages(config_of(tmp_path, **changes, compile=how), 3, 9)[0] for how in (False, graphs))
    frame = Packet(SHAPE)
    for number in range(6):
        torch.manual_seed(number)
        frame.set_header(number - 1, number)
        frame.tensor.normal_()
        for one in (plain, own):
            one.forward(frame)
            one.backward_from_loss(frame, None)
            one.update()
    pairs = zip(plain.parameters, own.parameters, strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs) == keeps


def test_every_forward_pass_begins_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    monkeypatch.setattr(stage, "compiled", lambda blocks, how: blocks)
    own = build_stages(config_of(tmp_path, stages=1, compile="reduce-overhead"), 3, 9)[0]
    own.warm_up(SHAPE, torch.float32, torch.device("cpu"))
    own.forward(Packet(SHAPE))
    assert len(begun) == 2


def test_the_mode_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda blocks, **options: modes.append(options["mode"]))
    compiled.compiled(nn.ReLU(), True)
    compiled.compiled(nn.ReLU(), "reduce-overhead")
    assert modes == [None, "reduce-overhead"]


def test_other_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compile"):
        parse(settings(tmp_path, compile="max-autotune"), "test")
