"""All stages in one process on one device, each on a stream of its own, and a tick as one CUDA graph.

The stages and their packets are the one-process reference's. What differs is that the host decides nothing within a
tick, so that it can be captured once and replayed: whose a row is lies on the device, and foreign gradients are zeroed
there. In the graph the stages are branches that nothing connects before the tick's end: a GPU runs them side by side,
and the host's part is one launch. D = 1 is backpropagation.

On the CPU streams are none, stages compute one after another, and there are no graphs.
"""

import gc
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.config.settings import Rule
from common.models import build, part
from common.rule.packet import Packet
from common.rule.pixels import normalise
from common.rule.reference import Reference
from common.rule.stage import Stage, casting

if TYPE_CHECKING:
    from common.config.settings import Config


class DevicePacket(Packet):
    """A packet on a device, with its clips and labels.

    Attributes:
        whose: int64 [2, rows], each row's clip and label. What the header says is not used.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device, device)
        self.whose = torch.zeros(2, shape[0], dtype=torch.int64, device=device)
        self.label_tensor = self.whose[1]

    def pack(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Take `tensor`, computed from `source`."""
        assert isinstance(source, DevicePacket)
        self.whose.copy_(source.whose)
        self.tensor.copy_(tensor.detach())


class DeviceStage(Stage):
    """A stage that asks nothing of the host. Its blocks must not draw: what they drew would not be the reference's."""

    def run(self, x: Tensor, frame: int, part: int = 0) -> Tensor:
        """The blocks on an input. No generator is seeded, which a capture does not allow."""
        with casting(self.config, x.device):
            return self._run(x)

    def backward(self, held: Packet, gradient: Packet) -> Tensor | None:
        """The rule's, with the gate on the device."""
        assert isinstance(held, DevicePacket)
        assert isinstance(gradient, DevicePacket)
        foreign = gradient.whose[0] != held.whose[0]
        gradient.tensor.masked_fill_(foreign.view(-1, *[1] * (gradient.tensor.ndim - 1)), 0)
        return super().backward(held, gradient)


class Streams:
    """A pipeline in this process.

    Attributes:
        stages: from the input to the top.
    """

    def __init__(self, config: "Config", classes: int, device: torch.device) -> None:
        """`config`: task classify, a constant rate, `rule.boundary` gate."""
        assert config.split is not None
        self._data, self._module = config.data, torch.get_device_module(device)
        ungated = config.model_copy(update={"rule": Rule(boundary="mix", every=config.rule.every)})  # gated above
        model = build(config, classes).to(device)
        self.stages = [DeviceStage(part(model, config.split, i), i, ungated) for i in range(config.stages)]
        self._pipeline = Reference(list(self.stages), config.frame_shape, packet=partial(DevicePacket, device=device))
        self._frame = DevicePacket(config.frame_shape, torch.float32, device)
        self._pixels = torch.zeros(config.frame_shape, dtype=torch.uint8, device=device)
        self._streams = [self._module.Stream() for _ in self.stages]
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the parity of their ticks

    def tick(self, frames: Tensor, whose: Tensor) -> None:
        """One tick of every stage. May return before it is done: then the inputs are still to be read.

        Args:
            frames: uint8 [slots, channels, height, width], pinned where the device is not the CPU.
            whose: int64 [2, slots], each slot's clip and label, as well.
        """
        self._pixels.copy_(frames, non_blocking=True)
        self._frame.whose.copy_(whose, non_blocking=True)
        if self._graphs:
            self._graphs[self._pipeline.tick_number % 2].replay()
        else:
            self._compute()
        self._pipeline.tick_number += 1

    def capture(self) -> None:
        """Record what a tick does, once for each half of the double buffer: ticks are replays from now on.

        The pipeline must be full, and some ticks must have run: what is allocated once is not for a graph.
        """
        now, top = self._pipeline.tick_number, self._pipeline.schedule
        assert top.gradient(0, now - 1) is not None, "stage 0 has updated"
        gc.collect()  # an old graph that is destroyed while another is captured spoils that
        self.synchronize()
        graphs = {}
        for tick in (now, now + 1):
            graph = graphs[tick % 2] = torch.cuda.CUDAGraph()
            self._pipeline.tick_number = tick
            with torch.cuda.graph(graph):
                self._compute()
        self._pipeline.tick_number, self._graphs = now, graphs

    def synchronize(self) -> None:
        """Wait until the ticks that were begun are done."""
        self._module.synchronize()

    def _compute(self) -> None:
        here = self._module.current_stream()
        normalise(self._frame.tensor, self._pixels, self._data.mean, self._data.std)
        for stage, stream in zip(self.stages, self._streams, strict=True):
            stream.wait_stream(here)
            with self._module.stream(stream):
                self._pipeline.tick_stage(stage, self._frame)
        for stream in self._streams:
            here.wait_stream(stream)
