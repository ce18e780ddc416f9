"""Auxiliary losses: what they add to a stage's gradient, how they fade, and their state."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config.settings import Config, Data, Optimiser, Rule
from common.rule.auxiliary import Auxiliary, auxiliary_of
from common.rule.packet import Packet
from common.rule.stage import Stage

ROWS, CLASSES = 4, 3
CPU = torch.device("cpu")
RULE = Rule(auxiliary=0.5, auxiliary_until=0.25)
SGD = Optimiser(name="SGD", lr=0.1, lr_by_mismatch=False, args={})


def config(optimiser: Optimiser = SGD, rule: Rule = RULE) -> Config:
    return Config(stages=2, ticks=1, data=Data(train="."), rule=rule, optimiser=optimiser)


def stage(settings: Config, total_ticks: int = 1000) -> Stage:
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
    loss = auxiliary_of(settings, 0, (ROWS, 5, 4, 4), CLASSES, total_ticks, CPU)
    return Stage(blocks, 0, settings, total_ticks, loss)


def tick(learner: Stage, number: int) -> None:
    """A whole tick on random frames, with a random gradient."""
    source = torch.Generator().manual_seed(number)
    x, g = Packet((ROWS, 1, 6, 6)), Packet((ROWS, 5, 4, 4))
    x.labels[:] = torch.randint(CLASSES, (ROWS,), generator=source).numpy()
    for packet in (x, g):
        packet.set_header(number, number)
        packet.tensor.copy_(torch.randn(packet.tensor.shape, generator=source))
    learner.forward(x)
    learner.backward(x, g)
    learner.update()


def cloned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def test_its_gradient_is_added_to_the_delayed_one() -> None:
    """On a classifier that is not zero, as it is at the start."""
    ours, plain = stage(config()), stage(config(rule=Rule()))
    assert isinstance(ours.auxiliary, Auxiliary)
    assert plain.auxiliary is None
    nn.init.normal_(ours.auxiliary.classifier.weight)
    classifier = ours.auxiliary.classifier.weight.detach().clone()
    for learner in (ours, plain):
        learner.update = lambda: None  # type: ignore[method-assign]
        tick(learner, 0)
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (ROWS,), generator=source)
    frames = torch.randn(ROWS, 1, 6, 6, generator=source)
    weights = [value.detach().clone().requires_grad_() for value in plain.blocks.parameters()]
    features = F.conv2d(frames, weights[0], weights[1]).relu().mean((2, 3))
    (0.5 * F.cross_entropy(features @ classifier.T, labels)).backward()
    for own, delayed, auxiliary in zip(ours.blocks.parameters(), plain.blocks.parameters(), weights, strict=True):
        assert own.grad is not None
        assert delayed.grad is not None
        assert auxiliary.grad is not None
        torch.testing.assert_close(own.grad, delayed.grad + auxiliary.grad)
        assert not torch.allclose(own.grad, delayed.grad)


def test_its_weight_falls_linearly_to_zero() -> None:
    loss = stage(config(), total_ticks=1000).auxiliary
    assert loss is not None
    assert [loss.weight(n) for n in (0, 125, 250, 900)] == [0.5, 0.25, 0.0, 0.0]


def test_once_it_has_faded_nothing_of_it_is_left() -> None:
    ours, plain = stage(config(), total_ticks=4), stage(config(rule=Rule()), total_ticks=4)
    for number in range(5):
        tick(ours, number)
        if number == 0:  # the weight is zero from the second tick on
            plain.blocks.load_state_dict(ours.blocks.state_dict())
        else:
            tick(plain, number)
            for a, b in zip(ours.blocks.parameters(), plain.blocks.parameters(), strict=True):
                assert torch.equal(a, b)


def test_its_updates_remain_in_step_with_those_of_the_stage_once_it_has_faded() -> None:
    """A longer training makes its loss count again."""
    rule = Rule(auxiliary=0.5, auxiliary_until=0.25, every=3)
    learner = stage(config(rule=rule), total_ticks=8)
    auxiliary = learner.auxiliary
    assert auxiliary is not None
    weights = []
    for number in range(8):
        tick(learner, number)
        weights.append(auxiliary.classifier.weight.detach().clone())
        assert torch.equal(auxiliary.updater.counters, learner.counters)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])  # the mean of the two gradients before it faded
    assert all(torch.equal(weights[2], later) for later in weights[3:])


def test_the_top_stage_has_none_and_tokens_are_pooled() -> None:
    settings = config()
    assert auxiliary_of(settings, 1, (ROWS, CLASSES), CLASSES, 10, CPU) is None
    assert auxiliary_of(config(rule=Rule()), 0, (ROWS, 5, 4, 4), CLASSES, 10, CPU) is None
    tokens = auxiliary_of(settings, 0, (ROWS, 7, 5), CLASSES, 10, CPU)
    flat = auxiliary_of(settings, 0, (ROWS, 6), CLASSES, 10, CPU)
    assert tokens is not None
    assert flat is not None
    assert [head.classifier.in_features for head in (tokens, flat)] == [5, 6]
    held = Packet((ROWS, 1))
    for auxiliary, y in ((tokens, torch.ones(ROWS, 7, 5)), (flat, torch.ones(ROWS, 6, dtype=torch.bfloat16))):
        assert auxiliary.loss(y, held, 1.0).dtype == torch.float32


@pytest.mark.parametrize("optimiser", [SGD, Optimiser()], ids=["SGD", "AdamW"])
def test_a_saved_classifier_goes_on_bit_for_bit(optimiser: Optimiser) -> None:
    ours, restored = stage(config(optimiser)), stage(config(optimiser))
    for number in range(3):
        tick(ours, number)
    assert ours.auxiliary is not None
    assert restored.auxiliary is not None
    saved = cloned(ours.auxiliary.state())
    restored.blocks.load_state_dict(ours.blocks.state_dict())
    restored.updater.load(cloned(ours.updater.state()))
    restored.auxiliary.load(saved)
    restored.counters = ours.counters
    for number in range(3, 6):
        tick(ours, number)
        tick(restored, number)
    for a, b in zip(ours.blocks.parameters(), restored.blocks.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(ours.auxiliary.classifier.weight, restored.auxiliary.classifier.weight)


def test_its_learning_rate_follows_that_of_the_run() -> None:
    learner = stage(config())
    learner.set_rate(0.3)
    assert learner.auxiliary is not None
    assert learner.auxiliary.updater.rate == learner.updater.rate == 0.3
