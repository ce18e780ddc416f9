"""The rule for one stage."""

import numpy as np
from torch import nn

from common.config.settings import Optimiser
from common.rule.gate import gate
from common.rule.host_values import HostValues
from common.rule.packet import Packet
from common.rule.stage import Stage
from tests.support.toy_pipeline import FROZEN, ROWS, SGD, WIDTH, learning, model, packet, pipeline, random_frames


def test_the_gate_zeroes_exactly_the_rows_of_other_clips() -> None:
    held, gradient = Packet((ROWS, WIDTH)), Packet((ROWS, WIDTH))
    held.clips[:], gradient.clips[:] = [7, 8, 9, 3], [7, 4, 9, 5]
    gradient.tensor.fill_(2.0)
    assert gate(gradient, held, HostValues()) == 2
    assert gradient.tensor[:, 0].tolist() == [2.0, 0.0, 2.0, 0.0]


def test_an_in_place_first_layer_does_not_change_its_input() -> None:
    stage = Stage(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, 2)), 1, learning(3, SGD))
    held = Packet((ROWS, WIDTH))
    held.tensor.fill_(-1.0)
    stage.forward(held)
    assert bool((held.tensor == -1.0).all())


def test_learning_rates_fall_with_a_stages_mismatch() -> None:
    optimiser = Optimiser(name="SGD", lr=1.0, lr_by_mismatch=True, args={})
    stages = [Stage(part, i, learning(3, optimiser)) for i, part in enumerate(model(3))]
    assert [stage.updater.rate for stage in stages] == [1 / 5, 1 / 3, 1.0]


def test_correct_rows_are_counted() -> None:
    reference = pipeline(model(1), FROZEN)
    frames, labels = random_frames(1)[0]
    right = int((nn.Sequential(*model(1))(frames).argmax(1) == labels).sum())
    reference.tick(packet(0, frames, labels))
    assert int(reference.stages[0].objective.correct) == right
    assert np.array_equal(packet(0, frames, labels).labels, labels.numpy())
