"""PARTIME's scheme (benchmarks/partime.py) is the Sideways rule without the gate, so a comparison is of the schemes."""

import pytest
import torch

from benchmarks import gpu
from benchmarks.bench import config_of
from benchmarks.partime import Partime
from common.config.settings import Config, Rule
from tests.support.settings import SPLITS
from tests.support.tape import Tape

CPU = torch.device("cpu")


def small(stages: int, device: str = "cpu") -> Config:
    config = config_of("vgg8", SPLITS[stages], 3, 16, device=device, model_args={"width": 4})
    return config.model_copy(update={"rule": Rule(boundary="mix")})


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_it_equals_the_ungated_reference_bit_for_bit(stages: int) -> None:
    pairs = zip(gpu.by_streams(small(stages), CPU, "partime"), gpu.by_reference(small(stages), CPU), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_step_can_be_replayed_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one graph suffices."""
    tape = Tape()

    class Graph:
        def __init__(self, replay: object) -> None:
            self.replay = replay

    def capture(pipeline: Partime) -> None:
        kept = [value.clone() for value in changing(pipeline)]
        replay = tape.record(lambda: pipeline._step(pipeline._step_number))
        for value, before in zip(changing(pipeline), kept, strict=True):
            value.copy_(before)  # a tape computes as it records, which a GPU does not
        pipeline._graph = Graph(replay)  # type: ignore[assignment]

    monkeypatch.setattr(Partime, "capture", capture)
    pairs = zip(gpu.by_streams(small(4), CPU, "partime graph"), gpu.by_reference(small(4), CPU), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert tape.replayed == gpu.CHECKED


def changing(pipeline: Partime) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for stage in pipeline.stages:
        assert stage.optimiser is not None
        kept = [value for own in stage.optimiser.state.values() for value in own.values()]
        gradients = [stage.x.grad] if stage.x.grad is not None else []
        found += [*stage.blocks.parameters(), *kept, stage.inbox, stage.x, stage.gradient, *gradients]
    return [value.detach() for value in found]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["partime", "partime graph"])
def test_it_equals_the_ungated_reference_on_a_gpu(kind: str) -> None:
    device = torch.device("cuda")
    config = gpu._form(small(4, "cuda"), kind)
    with gpu._deterministic():
        assert gpu._distance(gpu.by_streams(config, device, kind), gpu.by_reference(config, device)) == 0
