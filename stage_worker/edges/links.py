"""The edges of a stage: which stages it exchanges tensors with, and their shapes and dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common.rule.skips import sources, targets

TensorSpec = tuple[torch.Size, torch.dtype]


@dataclass(frozen=True)
class Links:
    """The other ends of a stage's edges: its neighbours first, then those of skips.

    Attributes:
        stage: number of the stage.
        below: stages whose outputs it receives and which get its gradients, with the specs of their outputs.
        above: stages that receive its output and send gradients back.
        output: spec of its output.
    """

    stage: int
    below: dict[int, TensorSpec]
    above: tuple[int, ...]
    output: TensorSpec

    @property
    def partners(self) -> list[int]:
        """All of them, in order."""
        return sorted((*self.below, *self.above))

    def spec(self, partner: int) -> TensorSpec:
        """What passes on the edge to a partner, in both directions."""
        return self.below[partner] if partner < self.stage else self.output


def links_of(stage: int, stages: int, skips: Sequence[tuple[int, int]], outputs: Sequence[TensorSpec]) -> Links:
    """The links of a stage. `outputs`: specs of the outputs of the stages from 0 to this one."""
    below = {s: outputs[s] for s in (stage - 1, *sources(skips, stage))} if stage else {}
    above = (stage + 1, *targets(skips, stage)) if stage < stages - 1 else ()
    return Links(stage, below, above, outputs[stage])
