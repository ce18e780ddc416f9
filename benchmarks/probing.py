"""Pseudo-gradients against backpropagation's, measured as in coordinator/run/gradient_probe.py: each stage's weights
and gradient of the tick at which it holds a frame batch, and the exact gradient of that batch at those weights.
"""

from collections.abc import Callable
from functools import partial
from statistics import mean

from torch import Tensor

from common.config.settings import Config, Optimiser
from common.models import build, part
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import exact_gradients
from common.rule.stage import Stage
from coordinator.run.gradient_probe import compare


class Probe:
    """Looks at the reference's stages while they train. The top one is left out: its gradient is backpropagation's."""

    def __init__(self, config: Config, classes: int) -> None:
        assert config.split is not None
        model = build(config, classes)
        plain = config.model_copy(update={"optimiser": Optimiser()})
        self._own = [Stage(part(model, config.split, index), index, plain) for index in range(config.stages)]
        self._found: list[tuple[float, float]] = []
        self._changes: list[float] = []
        self._packet: Packet | None = None
        self._last: Packet | None = None
        self._pseudo: list[dict[str, Tensor]] = []

    def expect(self, stages: list[Stage], packet: Packet) -> None:
        """A frame batch enters now: look at each stage when it holds it."""
        self._packet, self._pseudo, self._last = packet, [{} for _ in stages], packet
        for stage in stages:
            look = partial(self._look, stage, stage.update, [stage.index])
            stage.update = look  # type: ignore[method-assign]

    def _look(self, stage: Stage, update: Callable[[], None], due: list[int]) -> None:
        """In place of an update: a stage holds the frame batch after as many ticks as there are stages below."""
        due[0] -= 1
        if due[0] < 0:
            own = self._own[stage.index].blocks
            own.load_state_dict(stage.blocks.state_dict())
            gradients = {name: value.grad for name, value in stage.blocks.named_parameters() if value.grad is not None}
            self._pseudo[stage.index] = {name: value.clone() for name, value in gradients.items()}
            stage.update = update  # type: ignore[method-assign]
            if stage.is_top:
                self._compare()
        update()

    def _compare(self) -> None:
        assert self._packet is not None
        exact = exact_gradients(self._own, self._packet, Target(self._packet.tensor, self._packet.clips))
        for pseudo, gradients in list(zip(self._pseudo, exact, strict=True))[:-1]:
            row = compare(pseudo, gradients)
            if row["cosine"] is not None and row["norm_ratio"] is not None:
                self._found.append((row["cosine"], row["norm_ratio"]))

    def smoothness_after(self, packet: Packet) -> None:
        """The change since the frame batch that was probed, of rows that stay in their clip."""
        last, self._last = self._last, None
        if last is not None and (same := last.clips == packet.clips).any():
            now, before = packet.tensor[same], last.tensor[same]
            self._changes.append(float(((now - before).flatten(1).norm(dim=1) / now.flatten(1).norm(dim=1)).mean()))

    def means(self) -> dict[str, float]:
        """Over probes, and stages but the top; nothing if the training was too short for one."""
        if not self._found or not self._changes:
            return {}
        return {
            "cosine": mean(cosine for cosine, _ in self._found),
            "norm_ratio": mean(ratio for _, ratio in self._found),
            "change": mean(self._changes),
        }
