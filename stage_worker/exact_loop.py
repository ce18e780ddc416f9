"""The loop of the algorithms with exact gradients, to compare Sideways with: backpropagation, GPipe, 1F1B.

The same workers, split, frames, loss and optimiser; what differs is when a stage computes what. A tick is a whole
step: all micro-batches of a frame batch forward and backward through all stages, then one update. The schedules are
torch.distributed.pipelining's; backpropagation is GPipe with one micro-batch.

    consumes   the coordinator's next frame batch (stage 0); its labels, which stage 0 passes on (top stage)
    produces   nothing but the update
    waits for  every other stage, twice a tick: that is the pipeline bubble
"""

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from common.errors import PeerError
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.stage import Stage
from stage_worker.edges.handshake import TensorSpec
from stage_worker.edges.process_groups import Groups
from stage_worker.edges.torch_p2p import Peer
from stage_worker.loop import Ports
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.reporter import Reporter
from stage_worker.reporting.ticking import Times

_LABELS = 3  # tag


class _Blocks(nn.Module):
    """A stage's blocks on one micro-batch after another."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.blocks, self._stage = stage.blocks, [stage]  # in a list: it is no submodule
        self.frame = self.part = 0

    def begin(self, frame: int) -> None:
        """A new step."""
        self.frame, self.part = frame, 0

    def forward(self, x: Tensor) -> Tensor:
        """The next micro-batch."""
        self.part += 1
        return self._stage[0].run(x, self.frame, self.part - 1)


class _Timed(PipelineStage):
    """Counts the seconds in the model."""

    seconds = 0.0

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass of a micro-batch."""
        self.seconds -= time.perf_counter()
        y = super().forward_one_chunk(*args, **kwargs)
        self.seconds += time.perf_counter()
        return y

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        """Backward pass of a micro-batch."""
        self.seconds -= time.perf_counter()
        r = super().backward_one_chunk(*args, **kwargs)
        self.seconds += time.perf_counter()
        return r


class ExactLoop:
    """Runs steps first … last - 1; `last` may be moved while it runs."""

    def __init__(
        self,
        stage: Stage,
        ports: Ports,
        reporter: Reporter,
        groups: Groups,
        takes: TensorSpec,
        gives: TensorSpec,
        wire: torch.device,
    ) -> None:
        """`takes` and `gives`: the forms of the stage's whole input and output."""
        self.stage, self.ports, self.reporter = stage, ports, reporter
        self.probe = StageProbe()  # never asked for anything
        self.last = 0
        self._device = ports.device
        self._blocks = _Blocks(stage)
        self._parts, self._deadline = stage.config.parts, stage.config.network.deadline
        self.pipe = self._pipeline(groups.pipeline, takes, gives)
        kind = Schedule1F1B if stage.config.algorithm == "1f1b" else ScheduleGPipe
        self._schedule = kind(self.pipe, self._parts, self._loss, scale_grads=False)
        self._held, self._part = Packet((takes[0][0], 1), wire=wire), 0  # the header alone is used
        self._target: Target | None = None
        other_end = stage.config.stages - 1 if stage.is_first else 0
        self._labels = Peer(groups.forward, stage.index, other_end, 1.25 * self._deadline, tag=_LABELS)
        self._sending: dist.Work | None = None
        self._backward_bytes, self._forward_bytes = (  # a tick
            form[0].numel() * form[1].itemsize * int(exists)
            for form, exists in ((takes, not stage.is_first), (gives, not stage.is_top))
        )
        self._clear()

    def _pipeline(self, group: dist.ProcessGroup, takes: TensorSpec, gives: TensorSpec) -> _Timed:
        x, y = (
            torch.empty(form[0][0] // self._parts, *form[0][1:], dtype=form[1], device=self._device)
            for form in (takes, gives)
        )
        x.requires_grad_(not self.stage.is_first)
        y.requires_grad_()
        index, count = self.stage.index, self.stage.config.stages
        return _Timed(self._blocks, index, count, self._device, input_args=x, output_args=y, group=group)

    def run(self, first: int) -> None:
        """Train from step `first` until `self.last`."""
        tick = first
        self.reporter.begin(self)
        while tick < self.last:
            try:
                self.tick(tick)
            except RuntimeError as error:
                raise self._explain(tick, error) from error
            self.reporter.ticked(tick, self)
            tick += 1
        if self._sending is not None:
            self._labels.wait(self._sending, tick, "sending labels to")
            self._sending = None
        self.reporter.flush(tick - 1, self)

    def tick(self, k: int) -> None:
        """One step."""
        stage = self.stage
        self._blocks.begin(k)
        if stage.is_first:
            assert self.ports.inputs is not None
            x = self.ports.inputs.receive(k)
            assert x is not None
            self._send_labels(x, k)
            self._schedule.step(x.tensor, return_outputs=False)
        elif stage.is_top:
            self._labels.wait(self._labels.receive(self._held.buffer, k), k, "receiving labels from")
            self._held.arrive()
            self._step_top(k)
        else:
            self._schedule.step(return_outputs=False)
        stage.rows += len(self._held.clips)
        if self.reporter.due:
            self.reporter.gradient_norm = stage.updater.gradient_norm()
        start = time.perf_counter()
        stage.update()
        self.pipe.seconds += time.perf_counter() - start

    def _send_labels(self, x: Packet, k: int) -> None:
        if self._sending is not None:
            self._labels.wait(self._sending, k, "sending labels to")
        self._held.pack(k, x, self._held.tensor)
        self._held.depart()
        self._sending = self._labels.send(self._held.buffer, k)

    def _step_top(self, k: int) -> None:
        self._target = self.ports.targets.target(k, k) if self.ports.targets else None
        self._part = 0
        losses: list[Tensor] = []
        self._schedule.step(target=self._held.label_tensor, losses=losses, return_outputs=False)
        self.stage.loss = torch.stack([loss.detach() for loss in losses]).sum()

    def _loss(self, y: Tensor, _: Tensor) -> Tensor:
        """A micro-batch's share of the mean loss; they are asked for in order."""
        size = len(self._held.clips) // self._parts
        rows = slice(self._part * size, (self._part + 1) * size)
        self._part += 1
        return self.stage.objective(y, self._held, self._target, rows) / self._parts

    def _explain(self, tick: int, error: RuntimeError) -> Exception:
        text = str(error)
        if isinstance(error, PeerError) or not any(
            sign in text for sign in ("imed out", "onnection", "closed by peer")
        ):
            return error
        return PeerError(
            f"stage {self.stage.index}, tick {tick}, exchanging micro-batches: a neighbour died, or nothing moved for "
            f"{self._deadline:g} s ({text.splitlines()[0][:120]}). Look at the other stages' messages, then start the "
            f"run again"
        )

    # ---- figures for the reports

    def times(self) -> Times:
        """Seconds of compute, of waiting to receive, to send, and for data, since `clear`."""
        own, data = self.pipe.seconds, self.ports.data_wait
        # waits of both kinds are inside torch's schedule: counted as one
        return own, max(0.0, time.perf_counter() - self._since - own - data), 0.0, data

    def summary(self) -> dict[str, Any]:
        """Seconds and bytes since `clear`."""
        compute, received, sent, data = self.times()
        ticks = self.stage.rows // len(self._held.clips)
        forward, backward = ticks * self._forward_bytes, ticks * self._backward_bytes
        return {
            "compute_seconds": compute,
            "receive_wait_seconds": received,
            "send_wait_seconds": sent,
            "data_wait_seconds": data,
            "bytes": forward + backward,
            "bytes_forward": forward,
            "bytes_backward": backward,
        }

    def clear(self) -> None:
        """Zero the counters."""
        self._clear()
        self.ports.clear()

    def _clear(self) -> None:
        self.pipe.seconds = 0.0
        self._since = time.perf_counter()
