"""A pipeline on streams in one process (benchmarks/streams.py) follows the rule, and its ticks can be CUDA graphs.

On the CPU, Python repeats the operations of a tick on the same memory, as a graph would. Real streams and graphs need a
GPU and are covered by the last test.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import gpu
from benchmarks.bench import config_of
from benchmarks.streams import DeviceStage, Streams
from common.config.settings import Config
from common.rule import stage
from common.rule.stage import Stage
from tests.support.settings import SPLITS

CPU = torch.device("cpu")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def small(stages: int, device: str = "cpu") -> Config:
    return config_of("vgg8", SPLITS[stages], 3, 16, device=device, model_args={"width": 4})


def same(config: Config, graph: bool = False) -> bool:
    """Whether streams and reference have equal parameters after some ticks, bit for bit."""
    kind = "streams graph" if graph else "streams"
    pairs = zip(gpu.by_streams(config, CPU, kind), gpu.by_reference(config, CPU), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_streams_equal_the_reference_bit_for_bit(stages: int) -> None:
    assert same(small(stages))


def test_without_the_gate_on_the_device_the_result_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the test above has gradients of other clips."""
    monkeypatch.setattr(DeviceStage, "backward", Stage.backward)
    assert not same(small(2))


def test_distance_is_relative_and_propagates_nan() -> None:
    ones, twos, nan = torch.ones(2), torch.full((2,), 2.0), torch.tensor([1.0, float("nan")])
    assert gpu._distance([ones, twos], [ones, twos]) == 0
    assert gpu._distance([ones, ones], [ones, twos]) == 0.5
    assert math.isnan(gpu._distance([ones, nan], [ones, ones]))


def test_a_tick_depends_only_on_the_parity_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """So two graphs suffice."""

    class Repeated:
        def __init__(self, streams: Streams, tick: int) -> None:
            self._streams, self._tick = streams, tick

        def replay(self) -> None:
            pipeline = self._streams._pipeline
            real, pipeline.tick_number = pipeline.tick_number, self._tick
            self._streams._compute()
            pipeline.tick_number = real

    def capture(streams: Streams) -> None:
        now: int = streams._pipeline.tick_number
        streams._graphs = {tick % 2: Repeated(streams, tick) for tick in (now, now + 1)}  # type: ignore[misc]

    monkeypatch.setattr(Streams, "capture", capture)
    assert same(small(4), graph=True)
    assert same(small(1), graph=True)


class Watched(TorchDispatchMode):
    """Records the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.called.add(str(func))
        return func(*args, **(kwargs or {}))


def test_a_tick_never_synchronises_with_the_host() -> None:
    """Operators that the host waits for, or whose result's size depends on data, cannot be captured."""
    config = gpu._form(small(3), "streams")
    streams = gpu._full(config, CPU, "streams")
    assert isinstance(streams, Streams)
    with Watched() as watched:
        streams._compute()
    assert {"aten.convolution.default", "aten.convolution_backward.default"} <= watched.called  # both passes
    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default")
    assert not [name for name in watched.called if any(part in name for part in waiting)]


@on_a_gpu
@pytest.mark.parametrize("stages", [1, 4])
def test_streams_and_graphs_equal_the_reference_on_a_gpu_bit_for_bit(stages: int) -> None:
    found = gpu.differences_of(small(stages, "cuda"), torch.device("cuda"))
    assert found.keys() == {"streams", "streams graph"}
    assert [form["same device"] for form in found.values()] == [0, 0]
    if stages == 1:  # in a pipeline, a value rounded to the other side of 0 can make more difference
        assert max(form["cpu"] for form in found.values()) < 1e-4


def test_compiled_backpropagation_is_a_single_compiled_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[int] = []

    def fake(blocks: nn.Sequential, how: object) -> nn.Sequential:
        compiled.append(len(blocks))
        return blocks

    monkeypatch.setattr(stage, "compiled", fake)
    pipeline = gpu._full(gpu._form(small(2), "backprop compiled"), CPU, "backprop compiled")
    assert compiled == [8]
    assert len(pipeline.stages) == 1
