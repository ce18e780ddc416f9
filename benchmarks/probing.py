"""Compare pseudo-gradients with backpropagation's, as coordinator/run/gradient_probe.py does.

Each stage's weights and pseudo-gradient are taken at the tick at which it holds a frame batch, and compared with the
exact gradient of that batch at those weights.
"""

from collections.abc import Callable
from functools import partial
from statistics import mean

from torch import Tensor

from common.config.settings import Config, Optimiser
from common.models import build, part
from common.rule.packet import Packet
from common.rule.reference import exact_gradients
from common.rule.stage import Stage
from coordinator.run.gradient_probe import compare


class Probe:
    """Observes the reference's stages in training. Leaves out the top stage, whose gradient is exact."""

    def __init__(self, config: Config, classes: int) -> None:
        assert config.split is not None
        model = build(config, classes)
        plain = config.model_copy(update={"optimiser": Optimiser()})
        self._copies = [Stage(part(model, config.split, index), index, plain) for index in range(config.stages)]
        self._comparisons: list[tuple[float, float]] = []  # cosine, norm ratio
        self._changes: list[float] = []
        self._packet: Packet | None = None
        self._last: Packet | None = None
        self._pseudo: list[dict[str, Tensor]] = []

    def expect(self, stages: list[Stage], packet: Packet) -> None:
        """Probe a frame batch that enters the pipeline now: each stage is observed when it holds the batch."""
        self._packet, self._pseudo, self._last = packet, [{} for _ in stages], packet
        for stage in stages:
            observe = partial(self._observe, stage, stage.update, [stage.index])
            stage.update = observe  # type: ignore[method-assign]

    def _observe(self, stage: Stage, update: Callable[[], None], remaining: list[int]) -> None:
        """Replaces a stage's update. Stage i holds the frame batch after i more ticks."""
        remaining[0] -= 1
        if remaining[0] < 0:
            copy = self._copies[stage.index].blocks
            copy.load_state_dict(stage.blocks.state_dict())
            gradients = {name: value.grad for name, value in stage.blocks.named_parameters() if value.grad is not None}
            self._pseudo[stage.index] = {name: value.clone() for name, value in gradients.items()}
            stage.update = update  # type: ignore[method-assign]
            if stage.is_top:
                self._compare()
        update()

    def _compare(self) -> None:
        assert self._packet is not None
        exact = exact_gradients(self._copies, self._packet, None)
        for pseudo, gradients in list(zip(self._pseudo, exact, strict=True))[:-1]:
            row = compare(pseudo, gradients)
            if row["cosine"] is not None and row["norm_ratio"] is not None:
                self._comparisons.append((row["cosine"], row["norm_ratio"]))

    def smoothness_after(self, packet: Packet) -> None:
        """Measure the change since the probed frame batch, over the rows whose clip is still the same."""
        last, self._last = self._last, None
        if last is not None and (same := last.clips == packet.clips).any():
            now, before = packet.tensor[same], last.tensor[same]
            self._changes.append(float(((now - before).flatten(1).norm(dim=1) / now.flatten(1).norm(dim=1)).mean()))

    def means(self) -> dict[str, float]:
        """Means over the probes and the stages below the top; empty if the training was too short for a probe."""
        if not self._comparisons or not self._changes:
            return {}
        return {
            "cosine": mean(cosine for cosine, _ in self._comparisons),
            "norm_ratio": mean(ratio for _, ratio in self._comparisons),
            "change": mean(self._changes),
        }
