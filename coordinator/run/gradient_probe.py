"""Measures how far the pseudo-gradients are from backpropagation's, on one frame batch every probe.every frames.

Each stage copies its weights and its pseudo-gradient at the tick at which it holds that frame. The reference then
recomputes backpropagation's gradient of the same batch at those weights, in a thread of the coordinator.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.config.settings import Config, Optimiser
from common.errors import SidewaysError
from common.messages.stage_calls import GradientSample, StageCalls
from common.messages.stage_rpc import Pending, Stages
from common.models import build, part
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import exact_gradients
from common.rule.stage import Stage
from common.rule.tasks import task_of
from coordinator.video.batch import Batch
from coordinator.video.targets import Step, packet_of

Row = dict[str, float | int | None]


class GradientProbe:
    """Asks the stages for samples at one frame, and compares them with exact gradients."""

    def __init__(self, config: Config, classes: int, stages: Stages, origin: int) -> None:
        self._config, self._stages, self._origin = config, stages, origin
        unused = {"compile": False, "optimiser": Optimiser()}  # these stages never update their weights
        self._own = _build(config.model_copy(update=unused), classes)
        self._pending: Pending[GradientSample | None] | None = None
        self._frame = -1
        form = task_of(config, classes).form
        self._batch, self._target = (Batch(config.frame_shape, config.data.pixel_type, form) for _ in range(2))
        self._thread: threading.Thread | None = None
        self._result: dict[str, Any] | None = None

    def ask_before(self, tick: int, last: int) -> None:
        """Called before frame `tick` is sent: if the next frame is due, ask the stages to sample it."""
        frame, reach = tick + 1, self._config.ticks_to_top + 1
        due = frame % self._config.probe.every == 0 and frame > self._origin + 2 * reach and frame + reach < last
        if due and self._thread is None and self._pending is None:
            self._stages.call_all(StageCalls.probe, frame)
            self._pending = self._stages.begin(StageCalls.probe_result, self._config.network.deadline)
            self._frame = frame

    def take(self, tick: int, step: Step) -> None:
        """Called with every step: if it is the one to sample, copy it and start the comparison in a thread."""
        if tick == self._frame and self._pending is not None:
            self._batch.copy_from(step.batch)
            self._target.copy_from(step.target)
            self._thread = threading.Thread(target=self._work, args=(self._pending,), name="probe", daemon=True)
            self._thread.start()
            self._pending = None

    def result(self) -> dict[str, Any] | None:
        """The result since the last call, or None: {"tick": …, "stages": [{stage, cosine, norm_ratio, smoothness}]}."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        result, self._result = self._result, None
        return result

    def finish(self, seconds: float, on_wait: Callable[[], None]) -> None:
        """Wait at most `seconds` for a comparison in progress, calling `on_wait` while waiting."""
        end = time.monotonic() + seconds
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < end:
            on_wait()
            time.sleep(0.02)

    def _work(self, pending: Pending[GradientSample | None]) -> None:
        try:
            samples = [sample for sample in pending.answers() if sample is not None]
        except SidewaysError:
            return  # a lost stage is reported elsewhere
        if len(samples) < self._stages.count:
            return  # the training ended before that frame
        for stage, sample in zip(self._own, samples, strict=True):
            for name, parameter in stage.blocks.named_parameters():
                parameter.data.copy_(sample.weights[name])
            stage.memories.load(sample.memories)
        exact = exact_gradients(self._own, *self._inputs())
        rows = [
            {"stage": index, **compare(sample.gradients, gradients), "smoothness": sample.smoothness}
            for index, (sample, gradients) in enumerate(zip(samples, exact, strict=True))
        ]
        self._result = {"tick": self._frame, "stages": rows}

    def _inputs(self) -> tuple[Packet, Target | None]:
        packet = packet_of(self._batch, self._config, self._frame)
        if self._config.has_labels:
            return packet, None
        target = packet_of(self._target, self._config, self._frame)
        return packet, Target(target.tensor, target.clips)


def _build(config: Config, classes: int) -> list[Stage]:
    torch.set_num_threads(1)  # the stages need the cores
    model = build(config, classes)
    assert config.split is not None
    parts = [part(model, config.split, index) for index in range(config.stages)]
    return [Stage(blocks, index, config, classes=classes) for index, blocks in enumerate(parts)]


def compare(pseudo: dict[str, Tensor], exact: dict[str, Tensor]) -> Row:
    """Cosine between two gradients of the same parameters, and ‖pseudo‖ / ‖exact‖; None where one is zero."""
    dot, pseudo_square, exact_square = (
        sum(float((a[name].double() * b[name].double()).sum()) for name in exact if name in a and name in b)
        for a, b in ((pseudo, exact), (pseudo, pseudo), (exact, exact))
    )
    if pseudo_square == 0 or exact_square == 0:
        return {"cosine": None, "norm_ratio": None}
    return {
        "cosine": dot / (pseudo_square * exact_square) ** 0.5,
        "norm_ratio": (pseudo_square / exact_square) ** 0.5,
    }
