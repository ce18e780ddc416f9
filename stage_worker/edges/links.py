"""The edges of a stage: which stages it exchanges tensors with, and their shapes and dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.models.shapes import TensorSpec
from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.pooling import pooled_shape
from common.rule.schedule import Schedule
from common.rule.skips import sources, targets

EdgeKind = Literal["forward", "backward", "evaluation"]  # evaluation's own: training packets may be in flight
EdgeKey = tuple[EdgeKind, int]  # an edge in one direction, with the stage at its other end


@dataclass(frozen=True)
class EdgeEnd:
    """One end of an edge, in one direction.

    Attributes:
        name: of the edge, unique between the two stages.
        spec: shape and dtype of what passes.
        stage, neighbour: this end's, and the other's.
        deadline: of each wait, in seconds.
        ticks: of the edge.
        labels: form of the rows' labels.
        channels_last: whether maps pass in that order.
    """

    name: str
    spec: TensorSpec
    stage: int
    neighbour: int
    deadline: float
    ticks: int = 1
    labels: LabelForm = ONE_CLASS
    channels_last: bool = False


@dataclass(frozen=True)
class Links:
    """The other ends of a stage's edges, each with what passes there in both directions: neighbours first, then skips.

    Attributes:
        stage: number of the stage.
        below: stages whose outputs it receives and which get its gradients.
        above: stages that receive its output and send gradients back.
        ticks: of its edges, by the stage at the other end.
    """

    stage: int
    below: dict[int, TensorSpec]
    above: dict[int, TensorSpec]
    ticks: dict[int, int]

    @property
    def partners(self) -> dict[int, TensorSpec]:
        """All of them, in order."""
        return dict(sorted({**self.below, **self.above}.items()))


def links_of(stage: int, schedule: Schedule, skips: Sequence[tuple[int, int]], outputs: Sequence[TensorSpec]) -> Links:
    """The links of a stage. `outputs`: specs of the stages' outputs, as far as its edges need them."""

    def skip(source: int, target: int) -> TensorSpec:
        shape, dtype = outputs[source]
        return pooled_shape(outputs[target - 1][0], shape), dtype

    below = {stage - 1: outputs[stage - 1]} if stage else {}
    above = {stage + 1: outputs[stage]} if stage < schedule.stages - 1 else {}
    below |= {source: skip(source, stage) for source in sources(skips, stage)}
    above |= {target: skip(stage, target) for target in targets(skips, stage)}
    ticks = {partner: schedule.ticks_between(stage, partner) for partner in (*below, *above)}
    return Links(stage, below, above, ticks)
