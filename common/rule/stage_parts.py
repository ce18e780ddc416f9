"""What a stage consists of, apart from its ticks (stage.py): its weights, what updates them, and their checkpoints."""

from torch import Tensor, nn

from common.config.settings import Config
from common.rule.auxiliary import Auxiliary
from common.rule.graphs import graph_wanted
from common.rule.memories import Memories
from common.rule.memory_format import arrange
from common.rule.schedule import schedule_of
from common.rule.skips import Merge
from common.rule.updater import Updater


class StageParts:
    """The parts of one stage.

    Attributes:
        blocks: its part of the model.
        updater: updates the blocks.
        auxiliary: its auxiliary loss; None if it has none.
        merge: of its input with what skips bring; None if no skip leads to it.
        memories: of the blocks that remember.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        index: int,
        config: Config,
        total_ticks: int,
        auxiliary: Auxiliary | None,
        merge: Merge | None,
    ) -> None:
        """Build the parts.

        Args:
            blocks: this stage's part of the model.
            index: number of the stage, 0 at the input.
            total_ticks: ticks of the whole training.
            auxiliary: loss on the output, whose gradient is added to the delayed one.
            merge: what the skips to this stage need.
        """
        if config.channels_last:
            arrange(blocks)
        self.blocks, self.index, self.config = blocks, index, config
        mismatch = schedule_of(config).mismatch(index)
        captured = graph_wanted(config, blocks)
        self.updater = Updater(blocks, config.optimiser, config.rule.every, mismatch, total_ticks, captured)
        self.auxiliary, self.merge = auxiliary, merge
        self.memories = Memories(blocks, config.channels_last)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that the updates change, in the order of the forward pass."""
        parts = [part.updater for part in (self.merge, self, self.auxiliary) if part is not None]
        return [parameter for updater in parts for parameter in updater.parameters]

    def set_rate(self, rate: float) -> None:
        """Change the base learning rate (optimiser.lr)."""
        self.updater.set_rate(rate)
        for part in (self.auxiliary, self.merge):
            if part is not None:
                part.updater.set_rate(rate)

    def evaluating(self, on: bool) -> None:
        """Switch evaluation mode on or off: dropout, batch norms, averaged weights if there are any, own memories."""
        self.blocks.train(not on)
        self.memories.set_aside() if on else self.memories.put_back()
        self.swap_average()

    def swap_average(self) -> None:
        """Swap the weights with their average, if there is one. Call before using the average and again after it."""
        self.updater.swap_average()
        if self.merge is not None:
            self.merge.updater.swap_average()

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by their names in the whole model; those of skips are `skips.SOURCE-STAGE`."""
        return {**self.blocks.state_dict(), **(self.merge.state_dict() if self.merge is not None else {})}

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """The weights, as `model.NAME`, and the rest of what the updates depend on, but for the auxiliary loss."""
        own = {f"model.{name}": value for name, value in self.weights().items()}
        return {**own, **self.updater.state(), **(self.merge.updater.state() if self.merge is not None else {})}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave. A skip that it does not have starts anew."""
        self.blocks.load_state_dict({name: state[f"model.{name}"] for name in self.blocks.state_dict()})
        self.updater.load(state)
        if self.merge is not None:
            known = self.merge.state_dict()
            self.merge.load_state_dict({name: state.get(f"model.{name}", value) for name, value in known.items()})
            self.merge.updater.load(state)

    def count(self, ticks: int) -> None:
        """Set the counters to `ticks` ticks, where a state is loaded that may not have them."""
        for part in (self, self.auxiliary, self.merge):
            if part is not None:
                part.updater.count(ticks)

    @property
    def counters(self) -> Tensor:
        """Of the updates, int64 [3]."""
        return self.updater.counters

    @counters.setter
    def counters(self, values: Tensor) -> None:
        for part in (self, self.auxiliary, self.merge):  # all count alike
            if part is not None:
                part.updater.counters = values
