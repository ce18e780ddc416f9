"""The loop of the algorithms with exact gradients, for comparison with Sideways: backpropagation, GPipe, 1F1B.

Workers, split, frames, loss and optimiser are the same; only the schedule differs. A tick is a whole step: all
micro-batches of a frame batch pass forward and backward through all stages, then the stages update. The schedules are
those of torch.distributed.pipelining; backpropagation is GPipe with one micro-batch.

    consumes   the coordinator's next frame batch (stage 0); its labels and clips, which stage 0 passes on to the top
               stage and to those with blocks that remember
    produces   only the update
    waits for  every other stage, twice per tick: the pipeline bubble
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from common.errors import PeerError, first_line
from common.models.shapes import TensorSpec
from common.processes.deadlines import for_edges
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.stage import Stage
from common.telemetry.spans import DATA_WAIT, Kind, WorkClock, clock
from stage_worker.edges.peer_errors import is_lost_peer
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.torch_p2p import Peer
from stage_worker.loop import TickLoop
from stage_worker.reporting.output_sampler import OutputSampler
from stage_worker.reporting.reported_loop import Times

_LABELS = 3  # tag of the labels' transfers
_FORWARD, _BACKWARD, _UPDATE = map(int, (Kind.FORWARD, Kind.BACKWARD, Kind.UPDATE))


class _Blocks(nn.Module):
    """Runs a stage's blocks on successive micro-batches of a step.

    Attributes:
        clips: clip id of each row of the batch, int64 [rows]; only used by blocks with a memory.
    """

    def __init__(self, stage: Stage, clips: NDArray[np.int64]) -> None:
        super().__init__()
        self.blocks, self._stage = stage.blocks, [stage]  # in a list, so that it is not a submodule
        self.frame, self.part, self.clips = 0, 0, clips

    def begin(self, frame: int) -> None:
        """Start the step of frame `frame`."""
        self.frame, self.part = frame, 0

    def forward(self, x: Tensor) -> Tensor:
        """Run the next micro-batch, [rows, …] → [rows, …]."""
        stage, part = self._stage[0], self.part
        self.part += 1
        if stage.memories:
            stage.memories.begin(self.clips[part * len(x) : (part + 1) * len(x)], self.frame, x.device, part)
        return stage.run(x, self.frame, part).contiguous()  # as gloo and NCCL need it


class _TimedPipelineStage(PipelineStage):
    """Adds the time of every micro-batch to `work`."""

    work: WorkClock

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass of a micro-batch."""
        start = clock()
        y = super().forward_one_chunk(*args, **kwargs)
        self.work.add(_FORWARD, start)
        return y

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Backward pass of a micro-batch."""
        start = clock()
        r = super().backward_one_chunk(*args, **kwargs)
        self.work.add(_BACKWARD, start)
        return r


@dataclass(eq=False)
class ExactLoop(TickLoop):
    """The steps of one stage. `sampler` copies outputs of the first micro-batch.

    Attributes:
        specs: shape and dtype of the input and output of a whole batch.
        remembering: the stages with blocks that have a memory. They need the frames' clips.
    """

    groups: Groups
    specs: tuple[TensorSpec, TensorSpec]
    remembering: set[int]

    def __post_init__(self) -> None:
        stage, groups, specs = self.stage, self.groups, self.specs
        self.sampler = OutputSampler()
        self._device = self.ports.device
        self._held = Packet((specs[0][0][0], 1), labels=stage.objective.task.form)  # only its header is used
        self._part = 0
        self._blocks = _Blocks(stage, self._held.clips)
        self._parts, self._deadline = stage.config.micro_batch_count, stage.config.network.deadline
        self.pipe = self._pipeline(groups.pipeline, *specs)
        kind = Schedule1F1B if stage.config.algorithm == "1f1b" else ScheduleGPipe
        self._schedule = kind(self.pipe, self._parts, self._loss, scale_grads=False)
        self._target: Target | None = None
        need_headers = (self.remembering | {stage.config.stages - 1}) - {0}
        self._needs_header = stage.index in need_headers
        others = sorted(need_headers) if stage.is_first else [0]
        self._peers = [Peer(groups.forward, stage.index, other, for_edges(self._deadline), _LABELS) for other in others]
        self._sending: list[dist.Work] = []
        self._backward_bytes, self._forward_bytes = (  # per tick
            spec[0].numel() * spec[1].itemsize * int(exists)
            for spec, exists in zip(specs, (not stage.is_first, not stage.is_top), strict=True)
        )
        self._since = time.perf_counter()

    def _pipeline(self, group: dist.ProcessGroup, inputs: TensorSpec, outputs: TensorSpec) -> _TimedPipelineStage:
        x, y = (
            torch.empty(spec[0][0] // self._parts, *spec[0][1:], dtype=spec[1], device=self._device)
            for spec in (inputs, outputs)
        )
        x.requires_grad_(not self.stage.is_first)
        y.requires_grad_()
        index, count = self.stage.index, self.stage.config.stages
        pipe = _TimedPipelineStage(self._blocks, index, count, self._device, input_args=x, output_args=y, group=group)
        pipe.work = self.work
        return pipe

    def compute(self, tick: int) -> None:
        """Run one step. Raises PeerError if a neighbour is gone."""
        try:
            self._step(tick)
        except RuntimeError as error:
            raise self._explain(tick, error) from error

    def settle(self, tick: int) -> None:
        """Finish sending labels."""
        self._finish_sending(tick)

    def _step(self, k: int) -> None:
        stage = self.stage
        self._blocks.begin(k)
        if self._needs_header:
            below = self._peers[0]
            below.wait(below.receive(self._held.header, k), k, "receiving labels from")
        if stage.is_first:
            x = self.ports.receive_input(k)
            assert x is not None
            self._send_labels(x, k)
            self._schedule.step(x.tensor, return_outputs=False)
        elif stage.is_top:
            self._step_top(k)
        else:
            self._schedule.step(return_outputs=False)
        stage.rows += len(self._held.clips)
        if self.update_is_reported():
            self.reporter.gradient_norm = stage.updater.gradient_norm()
        start = clock()
        stage.update()
        self.work.add(_UPDATE, start)

    def _send_labels(self, x: Packet, k: int) -> None:
        self._finish_sending(k)
        self._held.pack(k, x, self._held.tensor)
        self._sending = [peer.send(self._held.header, k) for peer in self._peers]

    def _finish_sending(self, k: int) -> None:
        for peer, work in zip(self._peers, self._sending, strict=False):
            peer.wait(work, k, "sending labels to")
        self._sending = []

    def _step_top(self, k: int) -> None:
        self._held.set_header(k - 1, k)
        self._target = self.ports.target(k, self._held)
        self._part = 0
        losses: list[Tensor] = []
        self._schedule.step(target=self._held.label_tensor, losses=losses, return_outputs=False)
        self.stage.loss = torch.stack([loss.detach() for loss in losses]).sum()

    def _loss(self, y: Tensor, _: Tensor) -> Tensor:
        """A micro-batch's share of the mean loss. Called for the micro-batches in order."""
        size = len(self._held.clips) // self._parts
        rows = slice(self._part * size, (self._part + 1) * size)
        self._part += 1
        if rows.start == 0 and self.tick >= self.sampler.due:
            self.sampler.take(self.tick, y)
        return self.stage.objective(y, self._held, self._target, rows) / self._parts

    def _explain(self, tick: int, error: RuntimeError) -> Exception:
        if isinstance(error, PeerError) or not is_lost_peer(error):
            return error
        cause = first_line(error)
        return PeerError(
            f"stage {self.stage.index}, tick {tick}, exchanging micro-batches: a neighbour died, or there was no "
            f"progress for {self._deadline:g} s ({cause}). See the other stages' errors, then restart the run"
        )

    # ---- statistics for the reports

    @property
    def model_cpu(self) -> float | None:
        """None: torch's schedule computes and waits in one call."""
        return None

    def times(self) -> Times:
        """Times since `clear`. Both kinds of waiting happen inside torch's schedule and count as receive-wait."""
        compute, data = self.work.compute_seconds(), self.work.seconds(DATA_WAIT)
        waited = max(0.0, time.perf_counter() - self._since - compute - data)
        return Times(compute, waited, 0.0, data)

    def compute_seconds(self) -> float:
        """Seconds in the stage's passes since `clear`; on a GPU, of their launches."""
        return self.work.compute_seconds()

    def bytes_sent(self) -> tuple[int, int]:
        """Bytes sent forward and backward since `clear`."""
        ticks = self.stage.rows // len(self._held.clips)
        return ticks * self._forward_bytes, ticks * self._backward_bytes

    def clear(self) -> None:
        """Zero the counters."""
        self.work.clear()
        self._since = time.perf_counter()
