"""Skips between stages: the rule's equations, the frames that they bring, gating, and shapes."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Config, Data, Optimiser
from common.errors import ConfigError
from common.rule.packet import Packet
from common.rule.pooling import pool_to, pooled_shape
from common.rule.reference import Reference
from common.rule.skips import Merge, sources, targets
from common.rule.stage_factory import make_stage

CPU = torch.device("cpu")
ROWS, WIDTH, TICKS = 3, 4, 24
SGD = Optimiser(name="SGD", lr=0.05, lr_by_mismatch=False, args={})
Skips = list[tuple[int, int]]


def config(stages: int, skips: Skips) -> Config:
    return Config(stages=stages, ticks=TICKS, data=Data(train="."), optimiser=SGD, skips=skips)


def pipeline(stages: int, skips: Skips) -> Reference:
    """Of linear layers, whose skips do not begin at zero."""
    settings = config(stages, skips)
    torch.manual_seed(3)
    parts = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(stages)]
    outputs = [(torch.Size((ROWS, WIDTH)), torch.float32)] * stages
    made = [make_stage(part, i, settings, outputs, 5, 1, CPU) for i, part in enumerate(parts)]
    for stage in made:
        for weight in stage.merge.parameters() if stage.merge is not None else ():
            nn.init.normal_(weight)
    return Reference(made, (ROWS, WIDTH))


def frame(tick: int, clip: int = 7) -> Packet:
    packet = Packet((ROWS, WIDTH))
    source = torch.Generator().manual_seed(tick)
    packet.set_header(tick - 1, tick)
    packet.clips[:], packet.labels[:] = clip, [0, 1, 2]
    packet.tensor.copy_(torch.randn(ROWS, WIDTH, generator=source))
    return packet


@pytest.mark.parametrize("skips", [[(0, 2)], [(0, 3), (1, 3)], [(0, 2), (1, 3), (0, 3)]])
def test_a_tick_is_that_of_the_equations(skips: Skips) -> None:
    """Written down again, with activations and gradients in plain lists, and autograd for each stage."""
    reference, count = pipeline(4, skips), 4
    weights = [[value.detach().clone() for value in stage.blocks.parameters()] for stage in reference.stages]
    merges: list[Any] = [stage.merge and stage.merge.skips for stage in reference.stages]
    projections = {(s, i): merges[i][f"{s}-{i}"].detach().clone() for i in range(count) for s in sources(skips, i)}
    y: dict[int, Tensor] = {}
    r: dict[tuple[int, int], Tensor] = {}  # (from, to)
    for k in range(TICKS):
        packet = frame(k)
        new_y, new_r = {}, {}
        for i in range(count):
            if k < i:
                continue
            x = (packet.tensor if i == 0 else y[i - 1]).clone().requires_grad_()
            z = {s: y[s].clone().requires_grad_() for s in sources(skips, i)}
            p = {s: projections[s, i].requires_grad_() for s in z}
            theta = [value.requires_grad_() for value in weights[i]]
            merged = x
            for s in sorted(z):
                merged = merged + F.linear(z[s], p[s])
            out = torch.tanh(F.linear(merged, theta[0], theta[1]))
            new_y[i] = out.detach()
            if i == count - 1:
                F.cross_entropy(out, torch.tensor([0, 1, 2])).backward()
            elif (i + 1, i) in r:
                out.backward(sum((r[t, i] for t in targets(skips, i)), r[i + 1, i]))
            else:
                continue
            for value in (*theta, *p.values()):
                assert value.grad is not None
            with torch.no_grad():
                weights[i] = [(value - 0.05 * value.grad).detach() for value in theta]  # type: ignore[operator]
                for s in p:
                    projections[s, i] = (p[s] - 0.05 * p[s].grad).detach()
            for s, leaf in ((i - 1, x), *z.items()):
                assert leaf.grad is not None
                new_r[i, s] = leaf.grad
        y, r = y | new_y, r | new_r
        reference.tick(packet)
    for stage, expected in zip(reference.stages, weights, strict=True):
        for a, b in zip(stage.blocks.parameters(), expected, strict=True):
            torch.testing.assert_close(a, b)
    for (s, i), expected_p in projections.items():
        torch.testing.assert_close(merges[i][f"{s}-{i}"], expected_p)


@pytest.mark.parametrize(("source", "target"), [(0, 2), (0, 4), (2, 4)])
def test_a_skip_brings_newer_frames_both_ways(source: int, target: int) -> None:
    reference = pipeline(5, [(source, target)])
    for k in range(TICKS):
        reference.tick(frame(k))
    schedule, ports = reference.schedule, reference._ports
    up, down = ports[target].receive_skips(TICKS)[0], ports[source].receive_skip_gradients(TICKS)[0]
    held, of = schedule.frame(target, TICKS), schedule.frame(source, TICKS)
    assert held is not None
    assert of is not None
    assert up.frame - held == target - source - 1
    assert of - down.frame == schedule.skip_mismatch(source, target)


def test_skips_that_start_at_zero_begin_as_a_pipeline_without() -> None:
    ours, plain = pipeline(3, [(0, 2)]), pipeline(3, [])
    assert ours.stages[2].merge is not None
    nn.init.zeros_(ours.stages[2].merge.skips["0-2"])
    losses = [(ours.tick(frame(k)), plain.tick(frame(k))) for k in range(4)]
    assert losses[2][0] is not None
    assert torch.equal(losses[2][0], losses[2][1])  # type: ignore[arg-type]
    assert not torch.equal(losses[3][0], losses[3][1])  # type: ignore[arg-type]


def test_rows_of_another_clip_count_as_zero() -> None:
    settings = config(4, [(0, 3)])
    merge = Merge(settings, 3, [(ROWS, WIDTH)] * 3, 1, CPU)
    held, newer = frame(0), frame(2)
    newer.clips[:] = [7, 8, 7]
    before = newer.tensor.clone()
    leaf = merge.leaf(0, newer, held)
    assert torch.equal(leaf[[0, 2]], before[[0, 2]])
    assert not leaf[1].any()


@pytest.mark.parametrize(
    ("of", "into"),
    [
        ((ROWS, 5, 8, 8), (ROWS, 6, 4, 4)),
        ((ROWS, 5, 4, 4), (ROWS, 6, 8, 8)),
        ((ROWS, 5, 8, 8), (ROWS, 6)),
        ((ROWS, 5), (ROWS, 6, 4, 4)),
        ((ROWS, 9, 5), (ROWS, 9, 6)),
        ((ROWS, 5, 3, 3), (ROWS, 10, 6)),
        ((ROWS, 9, 5), (ROWS, 6)),
        ((ROWS, 9, 5), (ROWS, 6, 2, 2)),
        ((ROWS, 5), (ROWS, 7, 6)),
    ],
)
def test_maps_tokens_and_vectors_fit_each_other(of: tuple[int, ...], into: tuple[int, ...]) -> None:
    merge = Merge(config(3, [(0, 2)]), 2, [of, into], 1, CPU)
    nn.init.ones_(merge.skips["0-2"])
    x, pooled = torch.zeros(into), pool_to(into, torch.ones(of))
    assert pooled.shape == pooled_shape(into, of)
    merged = merge(x, [pooled])
    assert merged.shape == x.shape
    torch.testing.assert_close(merged, torch.full(into, 5.0))  # the mean over positions of 5 channels of ones


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skips": [(0, 1)]}, r"\[0, 1\] must lead from a stage to one at least two further up"),
        ({"skips": [(1, 4)]}, r"stages are numbered from 0 to 3"),
        ({"skips": [(0, 2), (0, 2)]}, "names a pair twice"),
        ({"skips": [(0, 2)], "algorithm": "gpipe"}, "skips are for"),
        ({"skips": [(0, 2)], "probe": {"every": 5}}, "which has no skips"),
    ],
)
def test_impossible_skips_are_refused(changes: dict[str, object], message: str) -> None:
    from common.config.run_file import parse

    tree = {"stages": 4, "ticks": 1, "data": {"train": "."}, **changes}
    with pytest.raises(ConfigError, match=message):
        parse(tree, "test")


def test_weights_are_in_the_order_of_their_sources() -> None:
    """By their names 10 would come before 2."""
    outputs = [(ROWS, width) for width in range(1, 13)]
    merge = Merge(config(13, [(10, 12), (2, 12), (0, 12)]), 12, outputs, 1, CPU)
    assert [weight.shape[1] for weight in merge.skips.values()] == [1, 3, 11]


def test_automatic_skips_are_for_deep_classifiers() -> None:
    def pairs(stages: int, **changes: object) -> Skips:
        tree = {"stages": stages, "ticks": 1, "data": {"train": "."}, "skips": "auto", **changes}
        return Config.model_validate(tree).skip_pairs

    assert pairs(4) == pairs(8, task="autoencode") == pairs(8, algorithm="gpipe") == pairs(8, probe={"every": 9}) == []
    assert pairs(6) == [(0, 5), (1, 5), (2, 5), (3, 5)]


def test_sources_and_targets_are_in_order() -> None:
    skips = [(1, 4), (0, 4), (1, 3)]
    assert (sources(skips, 4), targets(skips, 1), sources(skips, 0)) == ((0, 1), (3, 4), ())
    assert np.array_equal(sources([], 2), ())


def test_a_skip_into_a_stage_without_parameters_counts_its_updates() -> None:
    """They are loaded from the stage's counters, and the average of the skip's weights goes by them."""
    settings = config(3, [(0, 2)])
    outputs = [(torch.Size((ROWS, WIDTH)), torch.float32)] * 3
    parts = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    made = [make_stage(nn.Sequential(part), i, settings, outputs, 5, 1, CPU) for i, part in enumerate(parts)]
    reference = Reference(made, (ROWS, WIDTH))
    for tick in range(TICKS):
        reference.tick(frame(tick))
    merge = made[2].merge
    assert merge is not None
    assert made[2].updater.optimiser is None
    assert merge.updater.counters.tolist() == made[2].counters.tolist() == [TICKS - 2, 0, TICKS - 2]
