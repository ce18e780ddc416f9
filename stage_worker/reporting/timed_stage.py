"""A wrapper of a stage that times its work and calls the gradient probe."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.stage import Stage
from common.telemetry.spans import Kind, WorkClock, clock
from stage_worker.reporting.gpu_clock import GpuClock
from stage_worker.reporting.gradient_probe import StageProbe
from stage_worker.reporting.output_sampler import OutputSampler

_FORWARD, _BACKWARD, _UPDATE = int(Kind.FORWARD), int(Kind.BACKWARD), int(Kind.UPDATE)


class TimedStage:
    """Wraps a stage, and computes exactly what the stage does.

    Attributes:
        sampler: copies an output on request.
        model_cpu: CPU seconds of this thread in the model since last zeroed; None if the model uses several threads,
            whose time cannot be attributed.
    """

    def __init__(self, stage: Stage, work: WorkClock, probe: StageProbe, before_update: Callable[[], None]) -> None:
        """Times are added to `work`; `before_update` runs before each update."""
        self.stage, self.is_first, self.is_top = stage, stage.is_first, stage.is_top
        self.sampler = OutputSampler()
        one_thread = torch.get_num_threads() == 1
        self.model_cpu = 0.0 if one_thread else None
        self._thread_time: Callable[[], float] = time.thread_time if one_thread else lambda: 0.0
        self._work, self._probe, self._before_update = work, probe, before_update
        self._probing = False

    @property
    def skip_gradients(self) -> list[Tensor]:
        """What the last backward pass computed for the sources of skips."""
        return self.stage.skip_gradients

    @property
    def skip_outputs(self) -> list[Tensor]:
        """The last output, pooled for the targets of skips."""
        return self.stage.skip_outputs

    def forward(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """Compute y(k) from x(k)."""
        frame = x.frame
        self._probing = self._probe.sees(frame)
        if self._probing:
            self._probe.before(self.stage, x)
        start, cpu = clock(), self._thread_time()
        y = self.stage.forward(x, skipped)
        self._add_time(_FORWARD, start, cpu)
        if frame >= self.sampler.due:
            self.sampler.take(frame, y)
        return y

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """Compute Δθ(k) from the newest gradient. Returns r(k); None for stage 0."""
        start, cpu = clock(), self._thread_time()
        r = self.stage.backward(held, gradient, skipped)
        self._add_time(_BACKWARD, start, cpu)
        self._probe_after(held)
        return r

    def backward_from_loss(self, held: Packet, target: Target | None) -> Tensor | None:
        """Compute Δθ(k) from the loss, in the top stage. Returns r(k); None for stage 0."""
        start, cpu = clock(), self._thread_time()
        r = self.stage.backward_from_loss(held, target)
        self._add_time(_BACKWARD, start, cpu)
        self._probe_after(held)
        return r

    def update(self) -> None:
        """θ ← optimiser(θ, Δθ)."""
        self._before_update()
        start, cpu = clock(), self._thread_time()
        self.stage.update()
        self._add_time(_UPDATE, start, cpu)

    def compute_seconds(self) -> float:
        """Seconds in the stage's passes since `clear`, which `work` has summed up."""
        return self._work.compute_seconds()

    def clear(self) -> None:
        """Zero `model_cpu`."""
        if self.model_cpu is not None:
            self.model_cpu = 0.0

    def _add_time(self, kind: int, start: int, cpu: float) -> None:
        self._work.add(kind, start)
        if self.model_cpu is not None:
            self.model_cpu += self._thread_time() - cpu

    def _probe_after(self, held: Packet) -> None:
        if self._probing:
            self._probe.after(self.stage, held)


class GpuTimedStage(TimedStage):
    """The same on a GPU, where the passes are only launched by the host."""

    def __init__(
        self, stage: Stage, work: WorkClock, probe: StageProbe, before_update: Callable[[], None], gpu: GpuClock
    ) -> None:
        super().__init__(stage, work, probe, before_update)
        self.model_cpu = None  # the CPU's time is that of launches
        self._gpu = gpu

    def forward(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """y(k) from x(k)."""
        self._gpu.begin()
        y = super().forward(x, skipped)
        self._gpu.end()
        return y

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """Δθ(k), and r(k), from the newest gradient."""
        self._gpu.begin()
        r = super().backward(held, gradient, skipped)
        self._gpu.end()
        return r

    def backward_from_loss(self, held: Packet, target: Target | None) -> Tensor | None:
        """The same from the loss."""
        self._gpu.begin()
        r = super().backward_from_loss(held, target)
        self._gpu.end()
        return r

    def update(self) -> None:
        """θ ← optimiser(θ, Δθ)."""
        self._gpu.begin()
        super().update()
        self._gpu.end()

    def compute_seconds(self) -> float:
        """Seconds that the GPU spent in the stage's passes since `clear`."""
        return self._gpu.seconds()

    def clear(self) -> None:
        """Zero the counters."""
        super().clear()
        self._gpu.clear()


def timed(
    stage: Stage, work: WorkClock, probe: StageProbe, before_update: Callable[[], None], device: torch.device
) -> TimedStage:
    """A stage that is timed as its device asks for."""
    if device.type == "cuda":
        return GpuTimedStage(stage, work, probe, before_update, GpuClock())
    return TimedStage(stage, work, probe, before_update)
