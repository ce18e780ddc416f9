"""A tick asks nothing of the device that computes it: on a GPU the host would wait for all that was launched before.

torch's meta device stands for the GPU. Its tensors have no values, so whatever reads one, or copies one to the host,
raises an error.
"""

from functools import partial

import pytest
import torch

from common.config.settings import Config, Data, Optimiser, TaskName
from common.models import build, part
from common.rule.gate import gate
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference
from common.rule.stage import Stage

META = torch.device("meta")
STAGES, SLOTS, SIZE = 3, 4, 16
ON_META = partial(Packet, device=META)


def reference(task: TaskName, **optimiser: object) -> Reference:
    """A pipeline whose stages compute on the meta device."""
    model = "vgg8" if task == "classify" else "autoencoder"
    settings = {"name": "SGD", "args": {"foreach": True}, **optimiser}
    config = Config(
        stages=STAGES,
        task=task,
        ticks=1,
        model=model,
        model_args={"width": 4},
        data=Data(train=".", slots=SLOTS, size=SIZE),
        optimiser=Optimiser.model_validate(settings),
    )
    whole = build(config, 5).to(META)
    split = [2, 3, len(whole) - 5]
    stages = [Stage(part(whole, split, number), number, config) for number in range(STAGES)]
    return Reference(stages, config.frame_shape, packet=ON_META)


def run(pipeline: Reference, frame: Packet, target: Target | None = None) -> None:
    """Ticks in which a clip of every slot ends, so that gradient rows are gated and targets are missing."""
    for tick in range(16):
        frame.set_header(tick - 1, tick)
        frame.clips[:] = [1000 * slot + tick // (3 + slot) for slot in range(SLOTS)]
        frame.labels[:] = range(SLOTS)
        if target is not None:
            target.clips[:] = frame.clips + (tick % 3 == 0)
        pipeline.tick(frame, target)
    assert sum(stage.gated for stage in pipeline.stages) > 0


@pytest.mark.parametrize("optimiser", [{}, {"clip": 0.1}, {"ema": 0.9}, {"schedule": "cosine"}, {"orthogonal": 0.9}])
def test_classification_reads_nothing_from_the_device(optimiser: dict[str, object]) -> None:
    run(reference("classify", **optimiser), ON_META((SLOTS, 3, SIZE, SIZE)))


def test_prediction_reads_nothing_from_the_device() -> None:
    frame = ON_META((SLOTS, 3, SIZE, SIZE))
    run(reference("predict"), frame, Target(torch.empty_like(frame.tensor), frame.clips.copy()))


def test_reading_a_value_would_be_found() -> None:
    held = ON_META((SLOTS, 2))
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(held.tensor.sum())
    with pytest.raises((RuntimeError, NotImplementedError)):
        held.tensor.cpu()


def test_gating_sends_a_mask_and_reads_none() -> None:
    held, gradient = ON_META((SLOTS, 2)), ON_META((SLOTS, 2))
    held.clips[:], gradient.clips[:] = [1, 2, 3, 4], [1, 9, 3, 9]
    stage = reference("classify").stages[0]
    assert gate(gradient, held, stage._masks) == 2
