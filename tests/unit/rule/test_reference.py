"""Consequences of the rule, checked on the reference, which runs the same `Stage` as the workers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Optimiser, Rule
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.stage import Stage
from tests.support.toy_pipeline import FROZEN, ROWS, SGD, WIDTH, learning, model, packet, pipeline, random_frames


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_one_stage_is_backpropagation_frame_by_frame(name: str) -> None:
    known: dict[str, dict[str, Any]] = {"AdamW": {"betas": (0.0, 0.999)}, "SGD": {"momentum": 0.3}}
    arguments = known[name]
    optimiser = Optimiser(name=name, lr=0.05, args=arguments, decay_all=True)
    ours, plain = model(1), model(1)[0]
    reference = pipeline(ours, optimiser)
    step = getattr(torch.optim, name)(plain.parameters(), lr=0.05, fused=True, **arguments)
    for tick, (frames, labels) in enumerate(random_frames(50)):
        loss = F.cross_entropy(plain(frames), labels)
        step.zero_grad()
        loss.backward()
        step.step()
        assert torch.equal(reference.tick(packet(tick, frames, labels)), loss.detach())  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(ours[0].parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 8])
def test_constant_clip_with_frozen_weights_gives_backpropagations_gradient_exactly(stages: int) -> None:
    parts = model(stages)
    reference = pipeline(parts, FROZEN)
    frames, labels = random_frames(1)[0]
    gradients: dict[int, list[Tensor]] = {}
    for stage in reference.stages:
        stage.update = lambda stage=stage: _take_gradients(stage, gradients)  # type: ignore[method-assign,misc]
    for tick in range(2 * stages + 3):
        reference.tick(packet(tick, frames, labels))
    whole = nn.Sequential(*model(stages))
    F.cross_entropy(whole(frames), labels).backward()
    expected = [parameter.grad for parameter in whole.parameters()]
    got = [gradient for stage in range(stages) for gradient in gradients[stage]]
    assert len(got) == len(expected) == 2 * stages
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))  # type: ignore[arg-type]


def _take_gradients(stage: Stage, into: dict[int, list[Tensor]]) -> None:
    into[stage.index] = [
        parameter.grad.clone() for parameter in stage.blocks.parameters() if parameter.grad is not None
    ]
    stage.blocks.zero_grad(set_to_none=True)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_stages_hold_the_scheduled_frames_and_gradients(stages: int) -> None:
    reference = pipeline(model(stages), SGD)
    seen: list[tuple[int, int, int | None, int | None]] = []
    for stage in reference.stages:
        _spy(stage, reference, seen)
    for tick, (frames, labels) in enumerate(random_frames(3 * stages)):
        reference.tick(packet(tick, frames, labels))
    schedule = reference.schedule
    expected = [
        (stage, tick, schedule.frame(stage, tick), schedule.gradient(stage, tick))
        for tick in range(3 * stages)
        for stage in range(stages)
        if schedule.frame(stage, tick) is not None
    ]
    assert seen == expected  # a stage computes nothing before its first input


def _spy(stage: Stage, reference: Reference, seen: list[tuple[int, int, int | None, int | None]]) -> None:
    forward, backward, top = stage.forward, stage.backward, stage.backward_from_loss

    def note_forward(x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        seen.append((stage.index, reference.tick_number, x.frame, None))
        return forward(x, skipped)

    def note_backward(held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        seen[-1] = (*seen[-1][:3], gradient.frame)
        return backward(held, gradient, skipped)

    def note_top(held: Packet, target: Target | None) -> Tensor | None:
        seen[-1] = (*seen[-1][:3], held.frame)
        return top(held, target)

    stage.forward, stage.backward, stage.backward_from_loss = (  # type: ignore[method-assign]
        note_forward,
        note_backward,
        note_top,
    )


def test_two_stages_match_a_hand_written_computation() -> None:
    """The rule for D = 2 written out tick by tick with autograd, with an update every tick."""
    parts, mine = model(2), model(2)
    reference = pipeline(parts, SGD, Rule(boundary="mix"))
    low, high = mine
    activation = gradient = held_labels = None
    for tick, (frames, labels) in enumerate(random_frames(20)):
        reference.tick(packet(tick, frames, labels))
        y = low(frames)
        low_step = None if gradient is None else torch.autograd.grad(y, list(low.parameters()), gradient)
        next_gradient = None
        if activation is not None and held_labels is not None:
            held = activation.requires_grad_()
            loss = F.cross_entropy(high(held), held_labels)
            *high_step, next_gradient = torch.autograd.grad(loss, [*high.parameters(), held])
            _descend(high, high_step)
        if low_step is not None:
            _descend(low, low_step)
        activation, gradient, held_labels = y.detach(), next_gradient, labels
    for ours, by_hand in zip(parts, mine, strict=True):
        for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # autograd.grad sums in its own order


def _descend(module: nn.Module, gradients: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.sub_(SGD.lr * gradient)


@pytest.mark.parametrize("boundary", ["gate", "mix"])
def test_a_clips_boundary_drops_gradients_only_when_gated(boundary: str) -> None:
    stages, change = 3, 9
    reference = pipeline(model(stages), FROZEN, Rule(boundary=boundary))
    bottom = reference.stages[0]
    for tick, (frames, labels) in enumerate(random_frames(20)):
        reference.tick(packet(tick, frames, labels, [0] * ROWS if tick < change else [1] * ROWS))
    # stage 0 holds the new clip while it receives the gradients of the old clip's last 4 frames
    assert bottom.gated == (4 * ROWS if boundary == "gate" else 0)
    assert bottom.rows == (20 - 4) * ROWS


def test_update_every_n_ticks_uses_the_mean_of_n_gradients() -> None:
    parts, plain = model(1), model(1)[0]
    reference = pipeline(parts, SGD, Rule(every=4))
    step = torch.optim.SGD(plain.parameters(), lr=SGD.lr, fused=True)
    for tick, (frames, labels) in enumerate(random_frames(12)):
        reference.tick(packet(tick, frames, labels))
        F.cross_entropy(plain(frames), labels).backward()
        if tick % 4 == 3:
            for parameter in plain.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_(1 / 4)
            step.step()
            step.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(parts[0].parameters(), plain.parameters(), strict=True))


def test_frame_sized_targets_are_matched_by_frame_number() -> None:
    stages = 4
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(WIDTH, WIDTH)) for _ in range(stages)]
    reference = pipeline(parts, FROZEN, task="autoencode")
    whole = nn.Sequential(*parts)
    frames = [frames for frames, _ in random_frames(12, torch.float32)]
    for tick, values in enumerate(frames):
        held = packet(tick, values, torch.zeros(ROWS, dtype=torch.int64))
        loss = reference.tick(held, Target(held.tensor, held.clips))
        if tick >= stages - 1:
            frame = frames[tick - (stages - 1)]
            assert torch.equal(loss, F.mse_loss(whole(frame), frame).detach())  # type: ignore[arg-type]


def test_labels_stay_with_their_rows() -> None:
    reference = pipeline(model(4), FROZEN)
    whole = nn.Sequential(*[stage.blocks for stage in reference.stages])
    frames = random_frames(12)
    for tick, (values, labels) in enumerate(frames):
        loss = reference.tick(packet(tick, values, labels))
        if tick >= 3:
            held, its_labels = frames[tick - 3]
            assert torch.equal(loss, F.cross_entropy(whole(held), its_labels).detach())  # type: ignore[arg-type]


def test_stage_0_keeps_equally_much_at_any_depth() -> None:
    """The most graphs and saved bytes that are alive in stage 0 do not depend on D."""
    measured = {stages: _footprint(stages) for stages in (2, 4, 8, 16)}
    assert len(set(measured.values())) == 1, measured
    assert measured[2][0] > 0
    assert measured[2][1] == 1


def _footprint(stages: int) -> tuple[int, int]:
    """The most bytes and graphs that are alive for stage 0's backward passes at any of its forward passes."""
    reference = pipeline(model(stages), SGD)
    bottom = reference.stages[0]
    saved: dict[int, tuple[int, int]] = {}  # of each tensor kept by autograd: tick and bytes
    worst = (0, 0)
    original = bottom.forward

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor.detach()  # a saved output would keep its own graph alive
            saved[id(self)] = reference.tick_number, tensor.nbytes

        def __del__(self) -> None:
            del saved[id(self)]

    def forward(x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        nonlocal worst
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            y = original(x, skipped)
        graphs = len({tick for tick, _ in saved.values()})
        worst = (max(worst[0], sum(size for _, size in saved.values())), max(worst[1], graphs))
        return y

    bottom.forward = forward  # type: ignore[method-assign]
    for tick, (frames, labels) in enumerate(random_frames(3 * stages)):
        reference.tick(packet(tick, frames, labels))
    return worst


def test_a_stage_without_parameters_passes_gradients_on() -> None:
    stage = Stage(nn.Sequential(nn.Flatten()), 1, learning(3, SGD))
    held, gradient = Packet((ROWS, 2, 3)), Packet((ROWS, 6))
    gradient.tensor.copy_(torch.arange(ROWS * 6.0).view(ROWS, 6))
    stage.forward(held)
    passed = stage.backward(held, gradient)
    stage.update()
    assert passed is not None
    assert torch.equal(passed.flatten(), torch.arange(ROWS * 6.0))
