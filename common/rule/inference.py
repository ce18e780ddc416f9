"""A whole pipeline in one process that only computes forward, one tick at a time, as in an evaluation.

For models with skips: what a stage computes then depends on frames that enter the pipeline after the one that it holds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.models.shapes import activation_shapes
from common.rule.packet import NO_CLIP, Packet
from common.rule.precision import casting
from common.rule.reference import MemoryPorts, memory_ports
from common.rule.stage import Stage


class Inference:
    """The stages of a trained model, in evaluation mode.

    Attributes:
        delay: ticks from a frame's entry to its output.
    """

    def __init__(self, stages: Sequence[Stage], frame_shape: Sequence[int]) -> None:
        """`frame_shape`: [rows, channels, height, width]."""
        self._stages, self._tick = stages, 0
        self.delay = stages[0].config.ticks_to_top
        with casting(stages[0].config, torch.device("cpu")):
            outputs = activation_shapes([stage.blocks for stage in stages], frame_shape)
        self._ports: list[MemoryPorts] = memory_ports(stages, outputs, "float32")
        self._empty = Packet(frame_shape)
        self._empty.clips[:] = NO_CLIP
        for stage in stages:
            stage.memories.clear()

    def tick(self, frame: Packet) -> tuple[Packet, Tensor] | None:
        """Compute a tick. Returns the frames that the top stage held, and its output; None while it holds none.

        `frame.frame` must be the tick's number. The result is valid until the next tick.
        """
        result = None
        for stage, ports in zip(self._stages, self._ports, strict=True):
            ports.frame = frame
            x, skipped = ports.receive_input(self._tick), ports.receive_skips(self._tick)
            if x is not None:
                y = stage.infer(x, skipped)
                if stage.is_top:
                    result = x, y
                else:
                    ports.send_output(self._tick, x, y, stage.skip_outputs)
        self._tick += 1
        return result

    def drain(self) -> tuple[Packet, Tensor] | None:
        """Compute a tick without a new frame, to get the output of one that has entered before."""
        self._empty.set_header(self._tick - 1, self._tick)
        return self.tick(self._empty)
