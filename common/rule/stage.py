"""The Sideways rule for one stage. Pure torch: no transport, no clock. The reference and the workers run it.

At tick k a stage computes with its newest input x(k) and its newest gradient g(k) at once (Malinowski et al., CVPR
2020, section 3.2):

    y = H(x; θ)      Δθ = (∂H/∂θ)ᵀ g      r = (∂H/∂x)ᵀ g      θ ← optimiser(θ, Δθ)

It keeps one input, one output and one gradient, whatever the pipeline's depth, and the next tick overwrites them; and
what blocks with a memory remember of their slots (memories.py).
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from common.config.settings import Config
from common.errors import ConfigError, first_line
from common.rule.auxiliary import Auxiliary
from common.rule.compiled import compiled, nothing
from common.rule.gate import gate
from common.rule.host_values import HostValues
from common.rule.in_place import forbid_in_place_on_input
from common.rule.loss import EVERY_ROW, Objective, Target
from common.rule.memory_format import arranged
from common.rule.packet import Packet
from common.rule.pooling import pool_to
from common.rule.precision import casting
from common.rule.skips import Merge
from common.rule.stage_parts import StageParts
from common.rule.tasks import task_of


class Mean(Protocol):
    """Takes the mean of the gradients over a stage's replicas, at a tick that updates the parameters."""

    def begin(self) -> None:
        """The backward pass begins that completes the gradients."""

    def finish(self) -> None:
        """Replace every gradient by its mean over the replicas."""


class Stage(StageParts):
    """One stage: forward, gate, backward, update.

    Attributes:
        loss: last loss of the top stage, a 0-d tensor (mean over the rows); None in other stages.
        skip_gradients: what the last backward pass computed for the sources of skips to this stage, in their order.
        skip_outputs: the last output, pooled for the targets of the skips from this stage, in their order.
        mean: takes the mean of the gradients over the stage's replicas; None if it has none.
        gated, rows: gradient rows dropped at a clip boundary, and received, since last zeroed.
    """

    def __init__(
        self,
        blocks: nn.Sequential,
        index: int,
        config: Config,
        total_ticks: int = 1,
        auxiliary: Auxiliary | None = None,
        merge: Merge | None = None,
        skip_targets: Sequence[torch.Size] = (),
        replica: int = 0,
        classes: int = 1,
    ) -> None:
        """Build a stage. The other arguments as for `StageParts`.

        Args:
            skip_targets: shapes of the inputs of the stages to which skips lead from this one.
            replica: number of this copy of the stage.
            classes: number of classes, or of the labels' numbers.
        """
        super().__init__(blocks, index, config, total_ticks, auxiliary, merge)
        self.is_first, self.is_top = index == 0, index == config.stages - 1
        self.objective = Objective(task_of(config, classes))
        self.mean: Mean | None = None
        self._replica = (replica,) if replica else ()
        self.skip_gradients: list[Tensor] = []
        self.skip_outputs: list[Tensor] = []
        self._skipped: list[Tensor] = []
        self._skip_targets = skip_targets
        self.loss: Tensor | None = None
        self.gated = self.rows = 0
        self._unapplied = False  # a gradient was computed since the last update
        self._input: Tensor | None = None
        self._output: Tensor | None = None
        self._masks = HostValues()
        self._skip_masks = [HostValues() for _ in skip_targets]
        self._autocast = config.precision == "bfloat16"
        self._run = compiled(blocks, config.compile) if config.compile else blocks
        self._begin_step = nothing
        if config.compile == "reduce-overhead":
            self._begin_step = torch.compiler.cudagraph_mark_step_begin
            self.updater.keep_gradients()
        forbid_in_place_on_input(blocks)

    def forward(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """Compute y(k), [rows, …], from x(k), [rows, …], and keep the graph until `backward`.

        `skipped`: what the skips to this stage bring, in the order of their sources.
        """
        # free the last tick's graph first: it is still held while there is no gradient yet
        self._output, self.skip_outputs = None, []
        self._input = x.tensor.detach()  # a leaf in the receive buffer; backward writes r(k) to its .grad
        if not self.is_first:
            self._input.requires_grad_()
        if self.memories:
            self.memories.begin(x.clips, x.frame, x.tensor.device)
        self._output = self.run(self._merged(x, skipped), x.frame)
        self._pool(self._output)
        return self._output

    def _pool(self, y: Tensor) -> None:
        if self._skip_targets:
            self.skip_outputs = [pool_to(shape, y) for shape in self._skip_targets]

    def _merged(self, x: Packet, skipped: Sequence[Packet]) -> Tensor:
        assert self._input is not None
        if self.merge is None:
            return self._input
        self._skipped = [self.merge.leaf(i, y, x).requires_grad_() for i, y in enumerate(skipped)]
        with casting(self.config, x.tensor.device):
            merged: Tensor = self.merge(self._input, self._skipped)
        return merged

    def run(self, x: Tensor, frame: int, part: int = 0) -> Tensor:
        """Run the blocks on an input.

        Dropout masks depend only on the seed, stage, replica, frame and micro-batch (`part`).

        So they need no state, and the reference, which runs all stages in one process, draws the same masks.
        """
        self._seed(frame, part, x.device)
        return self._compute(x)

    def _seed(self, frame: int, part: int, device: torch.device) -> None:
        seed = self._seed_of(frame, part)
        self._begin_step()
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)

    def _seed_of(self, frame: int, part: int = 0) -> int:
        return hash((self.config.seed, self.index, frame, part, *self._replica)) % (1 << 63)

    def _compute(self, x: Tensor) -> Tensor:
        if not self._autocast:
            return self._run(x)
        with casting(self.config, x.device):
            return self._run(x)

    def warm_up(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        """Run once on zeros and restore the state, so that compilation happens before neighbours wait for a tick.

        Raises:
            ConfigError: the blocks cannot be compiled here.
        """
        before = {name: value.clone() for name, value in self.blocks.state_dict().items()}
        x = arranged(torch.zeros(tuple(shape), dtype=dtype, device=device), self.config.channels_last)
        x.requires_grad_(not self.is_first)
        try:
            y = self.run(x, 0)
            if y.requires_grad:
                y.sum().backward()
        except Exception as error:
            reason = first_line(error)
            raise ConfigError(f"compile: stage {self.index} cannot be compiled here ({reason})") from error
        self.blocks.load_state_dict(before)
        self.updater.drop_gradients()

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """Add Δθ(k) to the parameters' .grad, from the newest gradients, which are gated in place.

        `skipped`: the gradients that the targets of this stage's skips send back, in their order.
        Returns r(k), the gradient for the stage below, [rows, …]; None for stage 0.
        """
        self._gate(held, gradient, skipped)
        assert self._output is not None
        self._begin_gradients()
        if self._output.requires_grad:
            self._differentiate(self._output, held, gradient.tensor, [other.tensor for other in skipped])
        return self._drop_graph()

    def _gate(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> None:
        self.rows += len(held.clips)
        if self.config.rule.boundary == "gate":
            self.gated += gate(gradient, held, self._masks)
            for other, masks in zip(skipped, self._skip_masks, strict=True):
                gate(other, held, masks)

    def _differentiate(self, y: Tensor, held: Packet, gradient: Tensor, skipped: list[Tensor]) -> None:
        outputs: list[Tensor] = [y, *self.skip_outputs]
        gradients: list[Tensor | None] = [gradient, *skipped]
        if self.auxiliary is not None and (weight := self.auxiliary.weight(self.updater.ticks)):
            outputs.append(self.auxiliary.loss(y, held, weight))
            gradients.append(None)
        torch.autograd.backward(outputs, gradients)

    def backward_from_loss(self, held: Packet, target: Target | None) -> Tensor | None:
        """Backward of the top stage, from the loss on the frames it holds. Returns r(k); None for stage 0."""
        assert self._output is not None
        self.rows += len(held.clips)
        loss = self.objective(self._output, held, target, EVERY_ROW)
        self._begin_gradients()
        if loss.requires_grad:
            loss.backward()
        self.loss = loss.detach()
        return self._drop_graph()

    def update(self) -> None:
        """θ ← optimiser(θ, Δθ), every tick, or every N ticks on the mean of the last N gradients.

        With replicas, Δθ is the mean over them. Raises PeerError if one of them is lost.
        """
        if self.mean is not None and self.updater.due:
            self.mean.finish()
        self._unapplied = False
        if self.auxiliary is not None:
            self.auxiliary.update()
        if self.merge is not None:
            self.merge.updater.update()
        self.updater.update()

    def finish_update(self) -> None:
        """Apply a gradient whose tick was interrupted before its update; with replicas, discard it.

        Some replicas have it and others do not, but all must count alike.
        """
        if self._unapplied and self.mean is None:
            self.update()
        elif self._unapplied:
            for part in (self.merge, self, self.auxiliary):
                if part is not None:
                    part.updater.discard_last()
        self._unapplied = False

    def _begin_gradients(self) -> None:
        """The backward pass begins."""
        self._unapplied = True
        if self.mean is not None and self.updater.due:
            self.mean.begin()

    def infer(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """Compute y from x with frozen weights and no graph. Call `evaluating` first."""
        if self.memories:
            self.memories.begin(x.clips, x.frame, x.tensor.device)
        with torch.no_grad(), casting(self.config, x.tensor.device):
            merged = x.tensor
            if self.merge is not None:
                merged = self.merge(merged, [self.merge.leaf(i, y, x) for i, y in enumerate(skipped)])
            y: Tensor = self.blocks(merged)
            self._pool(y)
            return y

    def _drop_graph(self) -> Tensor | None:
        """Free this tick's graph, so that it does not outlive the tick. Returns the input's gradient."""
        assert self._input is not None
        gradient = self._input.grad
        if self.merge is not None:
            self.skip_gradients = [leaf.grad for leaf in self._skipped if leaf.grad is not None]
            self._skipped = []
        self.skip_outputs = []
        self._input = self._output = None
        return gradient
