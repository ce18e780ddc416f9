"""Evaluation in a stage: frames go forward through the same pipeline, weights frozen, nothing comes back.

consumes   x from the stage below (stage 0: the coordinator's frames), until the frame marked as the last
produces   y for the stage above; in the top stage sums per clip
waits for  the stage below only
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from common.messages.stage_calls import Scores
from common.rule.loss import Target
from common.rule.packet import NO_CLIP, Packet
from common.rule.stage import Stage
from stage_worker.edges.ports import EdgePorts

_PICTURES = 8  # rows


def run(stage: Stage, ports: EdgePorts, meanwhile: Callable[[], None] = lambda: None) -> "ClipSums":
    """Run one evaluation phase, `meanwhile` at each tick. The returned sums are empty but in the top stage."""
    sums = ClipSums()
    stage.evaluating(True)
    tick, last = 0, False
    while not last:
        meanwhile()
        x = ports.receive_input(tick)
        if x is not None:
            last = x.last
            y = stage.infer(x)
            if stage.is_top:
                sums.add(x, y, ports.target(tick, x))
            else:
                ports.send_output(tick, x, y)
        tick += 1
    if not stage.is_top:
        ports.settle(tick - 1)
    stage.evaluating(False)
    return sums


class ClipSums:
    """Sums over each clip's frames: of the softmax, or of the mean squared error against the target."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}
        self._frames: dict[int, int] = {}
        self._labels: dict[int, int] = {}
        self._pictures: torch.Tensor | None = None

    def add(self, held: Packet, y: torch.Tensor, target: Target | None) -> None:
        """Add a tick's rows. y: logits [rows, classes], or a reconstruction the shape of `target`."""
        if target is None:
            values = F.softmax(y.double(), dim=1).cpu()
        else:
            error = F.mse_loss(y.float(), target.tensor, reduction="none")
            values = error.double().flatten(1).mean(1, keepdim=True).cpu()
            if self._pictures is None:
                self._pictures = torch.stack([target.tensor[:_PICTURES], y[:_PICTURES].float()]).cpu()
        valid = held.clips != NO_CLIP if target is None else (held.clips != NO_CLIP) & (held.clips == target.clips)
        for row, (clip, label) in enumerate(zip(held.clips.tolist(), held.labels.tolist(), strict=True)):
            if valid[row]:
                self._sums[clip] = self._sums[clip] + values[row] if clip in self._sums else values[row].clone()
                self._frames[clip] = self._frames.get(clip, 0) + 1
                self._labels[clip] = label

    def scores(self) -> Scores:
        """The sums, in the order of clip ids."""
        clips = sorted(self._sums)
        return Scores(
            clips=torch.tensor(clips, dtype=torch.int64),
            labels=torch.tensor([self._labels[clip] for clip in clips], dtype=torch.int64),
            frames=torch.tensor([self._frames[clip] for clip in clips], dtype=torch.int64),
            sums=torch.stack([self._sums[clip] for clip in clips]) if clips else torch.zeros(0, 1),
            pictures=self._pictures,
        )
