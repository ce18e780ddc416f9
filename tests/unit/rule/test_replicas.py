"""Replicas in one process: data parallelism where there is one stage, and the mean in a fixed order."""

import torch
from torch import Tensor, nn

from common.config.settings import Config, Data, Optimiser, Rule
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.replicas import ReplicatedReference, mean_of, update
from common.rule.stage import Stage

ROWS, WIDTH, TICKS = 4, 6, 12


def stages_of(count: int, slots: int, every: int = 1) -> list[Stage]:
    torch.manual_seed(count)
    parts = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(count)]
    optimiser = Optimiser(name="SGD", lr=0.1, args={"momentum": 0.5}, lr_by_mismatch=False)
    data, rule = Data(train=".", slots=slots), Rule(every=every)
    config = Config(stages=count, ticks=TICKS, data=data, optimiser=optimiser, rule=rule)
    return [Stage(part, i, config) for i, part in enumerate(parts)]


def packet(tick: int, rows: slice) -> Packet:
    """Some of the `2 * ROWS` rows of a tick."""
    x = torch.randn(2 * ROWS, WIDTH, generator=torch.Generator().manual_seed(tick))[rows]
    found = Packet(tuple(x.shape))
    found.set_header(tick - 1, tick)
    found.clips[:], found.labels[:] = range(len(x)), [(tick + row) % WIDTH for row in range(len(x))]
    found.tensor.copy_(x)
    return found


def weights(stages: list[Stage]) -> list[Tensor]:
    return [parameter.detach() for stage in stages for parameter in stage.parameters]


def test_replicas_of_equal_frames_are_one_replica() -> None:
    """Also with several stages, and when every third tick updates."""
    replicas = [stages_of(3, ROWS, every=3) for _ in range(2)]
    single = stages_of(3, ROWS, every=3)
    both, alone = ReplicatedReference(replicas, (ROWS, WIDTH)), Reference(single, (ROWS, WIDTH))
    before = [value.clone() for value in weights(single)]
    for tick in range(TICKS):
        frame = packet(tick, slice(0, ROWS))
        both.tick([(frame, None), (packet(tick, slice(0, ROWS)), None)])
        alone.tick(frame)
    for values in zip(weights(single), *map(weights, replicas), strict=True):
        assert all(torch.equal(values[0], value) for value in values)
    assert not any(map(torch.equal, before, weights(single)))


def test_two_replicas_of_one_stage_are_backpropagation_on_all_rows() -> None:
    replicas, single = [stages_of(1, ROWS) for _ in range(2)], stages_of(1, 2 * ROWS)
    both, alone = ReplicatedReference(replicas, (ROWS, WIDTH)), Reference(single, (2 * ROWS, WIDTH))
    for tick in range(TICKS):
        parts = [slice(0, ROWS), slice(ROWS, None)]
        frames = [packet(tick, rows) for rows in parts]
        whole = packet(tick, slice(None))
        for frame, rows in zip(frames, parts, strict=True):
            frame.labels[:] = whole.labels[rows]
        losses = both.tick([(frame, None) for frame in frames])
        loss = alone.tick(whole)
        assert loss is not None
        torch.testing.assert_close(sum(each for each in losses if each is not None) / 2, loss)
    for one, other, whole_value in zip(weights(replicas[0]), weights(replicas[1]), weights(single), strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, whole_value)


def test_a_missing_gradient_counts_as_zero() -> None:
    copies = [stages_of(1, ROWS)[0] for _ in range(2)]
    before = copies[0].parameters[0].detach().clone()
    copies[0].parameters[0].grad = torch.ones_like(before)
    update(copies)
    for copy in copies:
        torch.testing.assert_close(copy.parameters[0].detach(), before - 0.1 * 0.5)
        assert copy.parameters[1].grad is None


def test_the_order_of_addition_is_that_of_the_replicas() -> None:
    parts = [torch.tensor([value]) for value in (1e8, -1e8, 1.0, 0.0)]
    assert mean_of(parts).item() == 0.25
    assert mean_of(parts[::-1]).item() == 0.0
    assert parts[0].item() == 1e8
    out = torch.empty(1)
    assert mean_of(parts, out) is out
