"""PARTIME's scheme (Meloni et al., arXiv 2210.09147), for comparison: stages of one process on streams, a step a graph.

At every step all stages compute at once: each copies its input to where its module reads it, runs forward, and sends
its output up on a stream for copies; takes the gradient that the stage above computed a step ago, runs backward and
updates. The streams branch off at a step's begin and join at its end, and the whole step is one CUDA graph, as its
buffers do not alternate. That is the Sideways rule without the gate at a clip's end. Written anew, after the scheme of
its authors' published code, with this repository's blocks, optimiser and loss, so that only the scheme differs.

On the CPU there are neither streams nor graphs: the stages compute one after another.
"""

import gc
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import build, part
from common.models.shapes import activation_shapes
from common.rule.in_place import forbid_in_place_on_input
from common.rule.optimiser import build_optimiser
from common.rule.pixels import Normaliser
from common.rule.precision import casting
from common.rule.schedule import schedule_of

if TYPE_CHECKING:
    from common.config.settings import Config


class _Stage:
    """One stage: its module, its optimiser, its buffers and its two streams."""

    def __init__(self, config: "Config", blocks: nn.Sequential, index: int, x: Tensor, y: Tensor) -> None:
        """`x`, `y`: an input and an output, of which shape, dtype and device are used."""
        module = torch.get_device_module(x.device)
        forbid_in_place_on_input(blocks)
        self.index, self.blocks = index, blocks
        self.optimiser = build_optimiser(blocks, config.optimiser, schedule_of(config).mismatch(index))
        self.inbox, self.x = torch.zeros_like(x), torch.zeros_like(x).requires_grad_(index > 0)
        self.gradient = torch.zeros_like(y)
        self.compute, self.copies = module.Stream(), module.Stream()

    def update(self) -> None:
        """Update the parameters."""
        if self.optimiser is not None:
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)


class Partime:
    """A pipeline in this process, with the methods of benchmarks/streams.py.

    Attributes:
        stages: From the bottom to the top.
    """

    def __init__(self, config: "Config", classes: int, device: torch.device) -> None:
        """`config` must have task "classify" and a constant learning rate, and every stage something to learn."""
        assert config.split is not None
        self._config, self._module, self._device = config, torch.get_device_module(device), device
        model = build(config, classes).to(device)
        blocks = [part(model, config.split, index) for index in range(config.stages)]
        with casting(config, device):
            outputs = activation_shapes(blocks, config.frame_shape)
        shapes = [(config.frame_shape, torch.float32), *outputs]
        tensors = [torch.zeros(tuple(shape), dtype=dtype, device=device) for shape, dtype in shapes]
        self.stages = [_Stage(config, own, i, tensors[i], tensors[i + 1]) for i, own in enumerate(blocks)]
        self._schedule, self._step_number = schedule_of(config), 0
        self._normalise = Normaliser(*config.data.normalisation, device)
        self._pixels = torch.zeros(config.frame_shape, dtype=torch.uint8, device=device)
        # the labels of the frames in the stages, the newest first
        self._labels = torch.zeros(config.stages, config.data.slots, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def tick(self, frames: Tensor, clips_labels: Tensor) -> None:
        """Run one step of every stage. Arguments as of `Streams.tick`; clips are not used."""
        self._pixels.copy_(frames, non_blocking=True)
        self._labels.copy_(self._labels.roll(1, 0))
        self._labels[0].copy_(clips_labels[1], non_blocking=True)
        if self._graph is None:
            self._step(self._step_number)
        else:
            self._graph.replay()
        self._step_number += 1

    def capture(self) -> None:
        """Capture a step as a graph, which later ticks replay. Every stage must have updated."""
        gc.collect()  # a graph that is destroyed during a capture makes the capture fail
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(self._step_number)
        self._graph = graph

    def synchronize(self) -> None:
        """Wait until all steps so far are done."""
        self._module.synchronize()

    def _step(self, step: int) -> None:
        main = self._module.current_stream()
        for stage in self.stages:
            stage.compute.wait_stream(main)
            stage.copies.wait_stream(main)
        for lower, upper in zip(self.stages, self.stages[1:], strict=False):
            self._pass_down(lower, upper, step)
        for stage in reversed(self.stages):  # an input is read before the stage below overwrites it
            self._train(stage, step)
        for stage in self.stages:
            main.wait_stream(stage.compute)
            main.wait_stream(stage.copies)

    def _pass_down(self, lower: _Stage, upper: _Stage, step: int) -> None:
        """The gradient that the upper stage computed a step ago, before it computes another."""
        if self._schedule.gradient(lower.index, step) is None or upper.x.grad is None:
            return
        with self._module.stream(lower.copies):
            lower.gradient.copy_(upper.x.grad)
            upper.x.grad.zero_()
        lower.compute.wait_stream(lower.copies)
        upper.compute.wait_stream(lower.copies)

    def _train(self, stage: _Stage, step: int) -> None:
        """One stage's step: forward, send, backward, update."""
        if self._schedule.frame(stage.index, step) is None:
            return
        with self._module.stream(stage.compute):
            if stage.index == 0:
                self._normalise(stage.x, self._pixels)
            else:
                stage.x.detach().copy_(stage.inbox)
            with casting(self._config, self._device):
                y: Tensor = stage.blocks(stage.x)
        above = self.stages[stage.index + 1] if stage.index + 1 < len(self.stages) else None
        if above is not None:
            above.copies.wait_stream(stage.compute)
            above.copies.wait_stream(above.compute)
            with self._module.stream(above.copies):
                above.inbox.copy_(y.detach())
        with self._module.stream(stage.compute):
            if above is None:
                F.cross_entropy(y.float(), self._labels[stage.index]).backward()
            elif self._schedule.gradient(stage.index, step) is not None:
                torch.autograd.backward(y, stage.gradient)
            else:
                return
            stage.update()
