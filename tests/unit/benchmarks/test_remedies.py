"""The remedies of benchmarks/remedies.py."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.remedies import apply, stashed_bytes
from benchmarks.replay import Replay
from common.rule.packet import Packet
from common.rule.stage import Stage
from coordinator.video.batch import Batch
from tests.support.settings import config_of

STAGES = 3  # stage 0's mismatch is 4
RATE = 0.1


def stage(index: int = 0, **optimiser: Any) -> Stage:
    torch.manual_seed(5)
    settings = {"name": "SGD", "lr": RATE, "lr_by_mismatch": False, **optimiser}
    return Stage(nn.Sequential(nn.Linear(6, 4)), index, config_of(Path(), stages=STAGES, optimiser=settings))


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
    apply([same], {"lookahead": 0.0}, 6)
    apply([ahead], {"lookahead": 1.0}, 6)
    expected, unmoved, moved = ticks(plain, 6), ticks(same, 6), ticks(ahead, 6)
    assert all(torch.equal(a, b) for a, b in zip(expected, unmoved, strict=True))
    assert torch.equal(moved[0], expected[0])
    torch.testing.assert_close(moved[1], expected[1] + 4 * 0.1 * (expected[1] - expected[0]))
    torch.testing.assert_close(weight(ahead), weight(plain))


def test_stashed_weights_give_the_gradient_of_the_frame_at_the_weights_it_was_computed_with() -> None:
    made, delay = stage(), 4
    made.blocks.add_module("tanh", nn.Tanh())  # so that the gradient depends on the weights
    apply([made], {"stashed": True}, 12)
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


def test_momentum_grows_with_the_delay() -> None:
    made = [stage(index, name="NAdam", args={"betas": [0.9, 0.999]}) for index in range(STAGES)]
    apply(made, {"momentum_by_delay": 0.98}, 1)
    optimisers = [each.updater.optimiser for each in made]
    assert [optimiser.param_groups[0]["betas"][0] for optimiser in optimisers if optimiser] == [
        pytest.approx(0.98),
        pytest.approx(0.94),
        pytest.approx(0.9),
    ]


def test_muon_makes_the_singular_values_of_an_update_equal_and_leaves_vectors_to_adam() -> None:
    made, adam = stage(name="Adam"), stage(name="Adam")
    apply([made], {"muon": 0.0}, 2)
    before = weight(made)
    ticks(made, 1)
    ticks(adam, 1)
    values = torch.linalg.svdvals(weight(made) - before)  # of rank 2, as there are two rows
    assert values[1] > 0.5 * values[0] > 0
    vectors = [each.blocks[0].get_parameter("bias") for each in (made, adam)]
    assert torch.equal(*vectors)


def test_updates_are_shortened_to_what_the_output_may_change() -> None:
    plain, free, bounded = stage(), stage(), stage()
    apply([free], {"bounded": 1e6}, 1)
    apply([bounded], {"bounded": 0.01}, 1)
    before, x = weight(plain), drawn(1)[0][0]
    y = plain.blocks(x).detach()
    for made in (plain, free, bounded):
        ticks(made, 1)
    assert torch.equal(weight(free), weight(plain))
    change = (bounded.blocks(x) - y).norm() / y.norm()
    torch.testing.assert_close(change, torch.tensor(0.01), rtol=1e-3, atol=0)
    steps = weight(bounded) - before, weight(plain) - before
    torch.testing.assert_close(steps[0] / steps[0].norm(), steps[1] / steps[1].norm(), rtol=1e-3, atol=1e-5)


def test_rates_level_out() -> None:
    made = stage(lr_by_mismatch=True)
    apply([made], {"levelling": 1.0}, 4)
    rates = []
    for _ in range(4):
        ticks(made, 1)
        rates.append(made.updater.rate)
    assert rates == pytest.approx([RATE * 5 ** (done / 4 - 1) for done in range(4)])


def test_replayed_slots_play_whole_earlier_clips_with_their_labels_and_new_ids() -> None:
    batch, replay, seen = Batch((4, 1, 1, 1)), Replay(4, 0.25, seed=0), []
    for tick in range(30):  # slot s plays clips of three frames; a frame is 10 × clip + its number
        for slot in range(4):
            clip = slot + 4 * (tick // 3)
            batch.frames[slot], batch.clips[slot], batch.labels[slot] = clip % 25 * 10 + tick % 3, clip, clip
        replay.fill(batch)
        seen.append((int(batch.clips[3]), int(batch.labels[3]), int(batch.frames[3, 0, 0, 0])))
    assert all(clip == 3 for clip, _, _ in seen[:3]), "there is nothing to replay yet"
    replayed = np.array(seen[3:]).reshape(-1, 3, 3)
    ids, labels, frames = replayed.transpose(2, 0, 1)
    assert (ids == ids[:, :1]).all()
    assert len(set(ids[:, 0])) == len(ids)
    assert ids.min() > 1000
    assert (labels % 4 != 3).all(), "what its own slot would have played is not recorded"
    assert (frames == labels % 25 * 10 + np.arange(3)).all()
