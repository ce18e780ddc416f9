"""The Sideways rule for one layer group. Pure torch: no transport, no clock. The reference and the workers run it.

At tick k a stage holds its newest input x(k) and its newest gradient g(k), and computes with both at once
(Malinowski et al., CVPR 2020, section 3.2):

    y = H(x; θ)      Δθ = (∂H/∂θ)ᵀ g      r = (∂H/∂x)ᵀ g      θ ← optimiser(θ, Δθ)

It keeps one input, one output and one gradient; the next tick overwrites them, whatever the pipeline's depth.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Optimiser, Rule
from common.errors import ConfigError
from common.packet import Packet
from common.schedule import Schedule

Task = Literal["classify", "autoencode"]

_UNUSABLE = {"Optimizer", "LBFGS", "SparseAdam"}  # they need closures, or sparse gradients
_WITHOUT_MOMENTUM = {"Adam": {"betas": (0.0, 0.999)}, "AdamW": {"betas": (0.0, 0.999)}}
_FUSED = {"Adam", "AdamW", "SGD", "Adagrad"}  # one kernel for all parameters, on the CPU too: less Python a tick


def gate(gradient: Packet, held: Packet) -> int:
    """Zero the rows of `gradient` that belong to another clip than `held`'s row does. Returns how many."""
    foreign = np.flatnonzero(gradient.clips != held.clips)
    if len(foreign):
        gradient.tensor.index_fill_(0, torch.from_numpy(foreign).to(gradient.tensor.device), 0)
    return len(foreign)


def build_optimiser(blocks: nn.Module, settings: Optimiser, mismatch: int) -> torch.optim.Optimizer | None:
    """The optimiser of a stage; None for a stage without parameters. Raises ConfigError for an unknown one."""
    kind = getattr(torch.optim, settings.name, None)
    usable = isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and settings.name not in _UNUSABLE
    if kind is None or not usable:
        known = sorted(name for name in dir(torch.optim) if name[0].isupper() and name not in _UNUSABLE)
        raise ConfigError(f"optimiser.name = {settings.name!r} is no class of torch.optim. Allowed: {', '.join(known)}")
    lr = settings.lr / (1 + mismatch) if settings.lr_by_mismatch else settings.lr
    given = settings.args
    alternatives = {"fused", "foreach", "capturable", "differentiable"} & set(given)
    fused = {"fused": True} if settings.name in _FUSED and not alternatives else {}
    parameters = [parameter for parameter in blocks.parameters() if parameter.requires_grad]
    try:
        arguments = {**fused, **_WITHOUT_MOMENTUM.get(settings.name, {}), **given}
        return kind(parameters, lr=lr, **arguments) if parameters else None
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimiser.args do not fit torch.optim.{settings.name}: {error}") from error


class Stage:
    """One layer group: forward, gate, backward, update.

    Attributes:
        loss: the top stage's last loss, a 0-d tensor (mean over the rows); elsewhere None.
        correct: the top stage's rows classified right since it was last zeroed, a 0-d int64 tensor.
        gated, rows: gradient rows dropped at a clip's boundary, and received, since last zeroed.
    """

    def __init__(
        self, blocks: nn.Sequential, index: int, stages: int, task: Task, rule: Rule, optimiser: Optimiser
    ) -> None:
        """`blocks` is this stage's part of the model; `index` counts from 0 at the input."""
        self.blocks, self.index, self.task, self.rule = blocks, index, task, rule
        self.is_first, self.is_top = index == 0, index == stages - 1
        self.optimiser = build_optimiser(blocks, optimiser, Schedule(stages).mismatch(index))
        self.loss: Tensor | None = None
        self.correct = torch.zeros((), dtype=torch.int64)
        self.gated = self.rows = 0
        self._accumulated = 0
        self._input: Tensor | None = None
        self._output: Tensor | None = None
        forbid_in_place_on_input(blocks)

    def forward(self, x: Packet) -> Tensor:
        """y(k) from x(k), keeping the graph of this one tick. x: [rows, …] → [rows, …]."""
        self._output = None  # while there is no gradient yet, the last tick's graph is still here: it goes first
        self._input = x.tensor.detach()
        if not self.is_first:
            self._input.requires_grad_()
        self._output = self.blocks(self._input)
        return self._output

    def backward(self, held: Packet, gradient: Packet) -> Tensor | None:
        """Δθ(k) into the parameters' .grad, from the newest gradient, which is gated in place.

        Returns r(k), the gradient for the stage below; None for stage 0.
        """
        self.rows += len(held.clips)
        if self.rule.boundary == "gate":
            self.gated += gate(gradient, held)
        assert self._output is not None
        if self._output.requires_grad:
            self._output.backward(gradient.tensor)
        return self._drop_graph()

    def backward_from_loss(self, held: Packet, target: Tensor | None) -> Tensor | None:
        """The top stage's backward: its gradient is the loss's, of the frames it holds. Returns r(k)."""
        assert self._output is not None
        self.rows += len(held.clips)
        loss = self._loss(self._output, held, target)
        if loss.requires_grad:
            loss.backward()
        self.loss = loss.detach()
        return self._drop_graph()

    def update(self) -> None:
        """θ ← optimiser(θ, Δθ): every tick, or every N-th on the mean of the last N gradients."""
        self._accumulated += 1
        if self.optimiser is None or self._accumulated < self.rule.every:
            return
        if self._accumulated > 1:
            for parameter in self.blocks.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1 / self._accumulated)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self._accumulated = 0

    def infer(self, x: Packet) -> Tensor:
        """y from x with frozen weights and no graph. Call `evaluating` first."""
        with torch.no_grad():
            return self.blocks(x.tensor)

    def evaluating(self, on: bool) -> None:
        """Switch dropout, batch norms and the like between training and evaluation."""
        self.blocks.train(not on)

    def gradient_norm(self) -> float:
        """Euclidean norm of the mean of the gradients gathered for the next update. Call before `update`."""
        gradients = [parameter.grad for parameter in self.blocks.parameters() if parameter.grad is not None]
        if not gradients:
            return 0.0
        return float(nn.utils.get_total_norm(gradients)) / (self._accumulated + 1)

    def _loss(self, y: Tensor, held: Packet, target: Tensor | None) -> Tensor:
        if self.task == "autoencode":
            assert target is not None
            return F.mse_loss(y, target)
        labels = held.label_tensor.to(y.device, non_blocking=True)
        self.correct = self.correct.to(y.device)
        self.correct += (y.detach().argmax(1) == labels).sum()
        return F.cross_entropy(y, labels)

    def _drop_graph(self) -> Tensor | None:
        """Forget this tick's graph, so that nothing of it outlives the tick; hand out the input's gradient."""
        assert self._input is not None
        gradient = self._input.grad
        self._input = self._output = None
        return gradient


def forbid_in_place_on_input(blocks: nn.Module) -> None:
    """A stage's input is a leaf in a receive buffer: layers may not write there (ReLU(inplace=True)).

    What comes before the first layer with parameters may be, or share memory with, the input.
    """
    for module in blocks.modules():
        if list(module.children()):
            continue
        if list(module.parameters()):
            return
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
