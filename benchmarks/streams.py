"""All stages in one process on one device, each on its own stream, with a tick as one CUDA graph.

The stages and their packets are those of the one-process reference. The difference: the host decides nothing within a
tick, so that a tick can be captured once and replayed. Clips and labels live on the device, and gradients of other
clips are set to zero there. In the graph, the stages are branches that join only at the end of the tick: a GPU runs
them in parallel, and the host launches once. D = 1 is backpropagation.

On the CPU there are neither streams nor graphs: the stages compute one after another.
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
from common.rule.pixels import Normaliser
from common.rule.precision import casting
from common.rule.reference import Reference
from common.rule.stage import Stage

if TYPE_CHECKING:
    from common.config.settings import Config


class DevicePacket(Packet):
    """A packet whose clips and labels are on the device too.

    Attributes:
        clips_labels: int64 [2, rows], each row's clip and label. They replace those in the header, which are not used.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shape, dtype, device)
        self.clips_labels = torch.zeros(2, shape[0], dtype=torch.int64, device=device)
        self.label_tensor = self.clips_labels[1]

    def pack(self, tick: int, source: Packet, tensor: Tensor) -> None:
        """Copy `tensor`, which was computed from `source`, with the clips and labels of `source`."""
        assert isinstance(source, DevicePacket)
        self.clips_labels.copy_(source.clips_labels)
        self.tensor.copy_(tensor.detach())


class DeviceStage(Stage):
    """A stage that needs nothing from the host. Its blocks must not use random numbers: they would differ from the
    reference's."""

    def run(self, x: Tensor, frame: int, part: int = 0) -> Tensor:
        """Apply the blocks to an input. Does not seed a generator, as a graph capture does not allow that."""
        with casting(self.config, x.device):
            return self._run(x)

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """The rule's backward pass, with the gate on the device."""
        assert isinstance(held, DevicePacket)
        assert isinstance(gradient, DevicePacket)
        other_clip = gradient.clips_labels[0] != held.clips_labels[0]
        gradient.tensor.masked_fill_(other_clip.view(-1, *[1] * (gradient.tensor.ndim - 1)), 0)
        return super().backward(held, gradient, skipped)


class Streams:
    """A pipeline in this process.

    Attributes:
        stages: From the bottom to the top.
    """

    def __init__(self, config: "Config", classes: int, device: torch.device) -> None:
        """`config` must have task "classify", a constant learning rate and `rule.boundary` = "gate"."""
        assert config.split is not None
        self._module = torch.get_device_module(device)
        self._normalise = Normaliser(*config.data.normalisation, device)
        # DeviceStage does the gating
        ungated = config.model_copy(update={"rule": Rule(boundary="mix", every=config.rule.every)})
        model = build(config, classes).to(device)
        self.stages = [DeviceStage(part(model, config.split, i), i, ungated) for i in range(config.stages)]
        self._pipeline = Reference(list(self.stages), config.frame_shape, packet=partial(DevicePacket, device=device))
        self._frame = DevicePacket(config.frame_shape, torch.float32, device)
        self._pixels = torch.zeros(config.frame_shape, dtype=torch.uint8, device=device)
        self._streams = [self._module.Stream() for _ in self.stages]
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by tick number modulo 2

    def tick(self, frames: Tensor, clips_labels: Tensor) -> None:
        """Run one tick of every stage.

        On a GPU this returns before the tick is done: leave the arguments unchanged until `synchronize` returns.

        Args:
            frames: uint8 [slots, channels, height, width], in pinned memory unless the device is the CPU.
            clips_labels: int64 [2, slots], each slot's clip and label, in pinned memory likewise.
        """
        self._pixels.copy_(frames, non_blocking=True)
        self._frame.clips_labels.copy_(clips_labels, non_blocking=True)
        if self._graphs:
            self._graphs[self._pipeline.tick_number % 2].replay()
        else:
            self._compute()
        self._pipeline.tick_number += 1

    def capture(self) -> None:
        """Capture a tick as a graph, once for each half of the double buffer. Later ticks replay the graphs.

        The pipeline must be full and every stage must have updated, as one-time allocations must not be captured.
        """
        now, schedule = self._pipeline.tick_number, self._pipeline.schedule
        assert schedule.gradient(0, now - 1) is not None, "stage 0 has not updated yet"
        gc.collect()  # a graph that is destroyed during a capture makes the capture fail
        self.synchronize()
        graphs = {}
        for tick in (now, now + 1):
            graph = graphs[tick % 2] = torch.cuda.CUDAGraph()
            self._pipeline.tick_number = tick
            with torch.cuda.graph(graph):
                self._compute()
        self._pipeline.tick_number, self._graphs = now, graphs

    def synchronize(self) -> None:
        """Wait until all ticks so far are done."""
        self._module.synchronize()

    def _compute(self) -> None:
        here = self._module.current_stream()
        self._normalise(self._frame.tensor, self._pixels)
        for stage, stream in zip(self.stages, self._streams, strict=True):
            stream.wait_stream(here)
            with self._module.stream(stream):
                self._pipeline.tick_stage(stage, self._frame)
        for stream in self._streams:
            here.wait_stream(stream)
