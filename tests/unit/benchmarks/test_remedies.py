"""The remedies of benchmarks/remedies.py."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.remedies import apply, stashed_bytes
from common.rule.packet import Packet
from common.rule.stage import Stage
from tests.support.settings import config_of

STAGES = 3  # stage 0's mismatch is 4
RATE = 0.1


def stage() -> Stage:
    torch.manual_seed(5)
    config = config_of(Path(), stages=STAGES, optimiser={"name": "SGD", "lr": RATE, "lr_by_mismatch": False})
    return Stage(nn.Sequential(nn.Linear(6, 4)), 0, config)


def weight(of: Stage) -> Tensor:
    return next(of.blocks.parameters()).detach().clone()


def drawn(count: int) -> list[tuple[Tensor, Tensor]]:
    """Random inputs and gradients. The gradient of a linear layer's weights does not depend on these weights."""
    generator = torch.Generator().manual_seed(6)
    return [(torch.randn(2, 6, generator=generator), torch.randn(2, 4, generator=generator)) for _ in range(count)]


def ticks(made: Stage, count: int) -> list[Tensor]:
    """Run `count` ticks. Returns the weights of each forward pass."""
    x, gradient, seen = Packet((2, 6)), Packet((2, 4)), []
    for tick, (values, gradients) in enumerate(drawn(count)):
        x.tensor.copy_(values)
        gradient.tensor.copy_(gradients)
        x.set_header(tick - 1, tick)
        made.forward(x)
        seen.append(weight(made))
        made.backward(x, gradient)
        made.update()
    return seen


def test_lookahead_predicts_the_weights_and_restores_them() -> None:
    plain, same, ahead = stage(), stage(), stage()
    apply([same], {"lookahead": 0.0})
    apply([ahead], {"lookahead": 1.0})
    expected, unmoved, moved = ticks(plain, 6), ticks(same, 6), ticks(ahead, 6)
    assert all(torch.equal(a, b) for a, b in zip(expected, unmoved, strict=True))
    assert torch.equal(moved[0], expected[0])
    torch.testing.assert_close(moved[1], expected[1] + 4 * 0.1 * (expected[1] - expected[0]))
    torch.testing.assert_close(weight(ahead), weight(plain))


def test_stashed_weights_give_the_gradient_of_the_frame_at_the_weights_it_was_computed_with() -> None:
    made, delay = stage(), 4
    made.blocks.add_module("tanh", nn.Tanh())  # so that the gradient depends on the weights
    apply([made], {"stashed": True})
    linear = cast(nn.Linear, made.blocks[0])
    x, gradient = Packet((2, 6)), Packet((2, 4))
    seen: list[Tensor] = []  # weights and biases of each frame's forward pass
    biases: list[Tensor] = []
    for tick, (values, gradients) in enumerate(drawn(12)):
        x.tensor.copy_(values)
        x.set_header(tick - 1, tick)
        made.forward(x)
        seen.append(weight(made))
        biases.append(linear.bias.detach().clone())
        if tick < delay:
            continue
        gradient.tensor.copy_(gradients)
        gradient.set_header(tick - 1, tick - delay)
        made.backward(x, gradient)
        assert torch.equal(weight(made), seen[-1]), "the weights are back"
        old = seen[tick - delay].requires_grad_()
        y = torch.tanh(nn.functional.linear(drawn(12)[tick - delay][0], old, biases[tick - delay]))
        (expected,) = torch.autograd.grad(y, old, gradients)
        torch.testing.assert_close(linear.weight.grad, expected)
        made.update()
    one = 4 * (2 * 6 + 4 * 6 + 4)
    assert stashed_bytes([made]) == (delay + 1) * one
