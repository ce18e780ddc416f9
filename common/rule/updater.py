"""θ ← optimiser(θ, Δθ): the updates of a stage, with its learning rate, clipping, means of weights and gradients."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from common.config.settings import Optimiser
from common.rule.learning_rate import rate_factor, rate_of_stage
from common.rule.optimiser import build_optimiser, load_state
from common.rule.orthogonal_gradient import Orthogonal


class Updater:
    """Accumulates a stage's gradients and updates its parameters.

    Attributes:
        optimiser: None for a stage without parameters.
        ticks: number of calls of `update`, including those that only accumulate.
        accumulated: number of gradients accumulated in .grad for the next optimiser step.
        updates: number of optimiser steps, also counted where there is no optimiser.
        replay: in place of `apply`, a recording of it, whose gradients stay where they are; None: there is none.
    """

    def __init__(
        self,
        blocks: nn.Module,
        settings: Optimiser,
        every: int,
        mismatch: int,
        total_ticks: int,
        captured: bool = False,
    ) -> None:
        """Build the optimiser.

        Args:
            every: number of gradients averaged per optimiser step.
            total_ticks: ticks of the whole training.
            captured: steps may be replayed (`build_optimiser`).
        """
        self.replay: Callable[[], None] | None = None
        self._settings, self._every, self._total_ticks, self._mismatch = settings, every, total_ticks, mismatch
        self.optimiser = build_optimiser(blocks, settings, mismatch, captured)
        self._captured = captured
        self.ticks = self.accumulated = self.updates = 0
        self._named = {name: value for name, value in blocks.named_parameters() if value.requires_grad}
        self._parameters = list(self._named.values())
        self._base = self._current = rate_of_stage(settings, settings.lr, mismatch)
        self._orthogonal = Orthogonal(self._parameters, settings.orthogonal) if settings.orthogonal else None
        self._keeps = False
        self._odd: set[nn.Parameter] = set()  # those whose gradients have other strides, in every tick
        self._checks = 2  # steps in which they are looked for: the first gradient may be from a checkpoint
        self._varies = settings.schedule != "constant" or settings.warmup > 0
        self._average = [value.detach().clone() for value in self._parameters] if settings.ema else []

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that it updates."""
        return self._parameters

    @property
    def due(self) -> bool:
        """Whether the next call of `update` steps the optimiser, if there is one."""
        return self.accumulated + 1 >= self._every

    @property
    def rate(self) -> float | None:
        """The current learning rate, of parameters without a factor; None for a stage without parameters."""
        return self._current if self.optimiser else None

    def set_rate(self, rate: float) -> None:
        """Change the base learning rate (optimiser.lr), which the schedule scales, from the next update on."""
        self._base = rate_of_stage(self._settings, rate, self._mismatch)
        self._use_rate(self._base)

    def _use_rate(self, rate: float) -> None:
        self._current = rate
        for group in self.optimiser.param_groups if self.optimiser else []:
            if self._captured:
                group["lr"].fill_(rate * group["factor"])
            else:
                group["lr"] = rate * group["factor"]

    def update(self, missing: bool = False) -> None:
        """Count a gradient. Every N-th call steps the optimiser on the mean of the last N gradients.

        All parts of a stage count alike, also those without parameters. `missing`: none of the N is there.
        """
        self.ticks += 1
        self.accumulated += 1
        if self.accumulated < self._every:
            return
        self.updates += 1
        if self.optimiser is not None and not missing:
            self._step()
        self.accumulated = 0

    def _step(self) -> None:
        if self._varies:
            self._use_rate(self._base * rate_factor(self._settings, self.ticks - 1, self._total_ticks))
        if self.replay is not None:
            self.replay()
        else:
            self.apply()
            self.drop_gradients()
        if self._average:
            # a smaller decay at first forgets the random start sooner (as in TensorFlow's ExponentialMovingAverage)
            decay = min(self._settings.ema, self.updates / (9 + self.updates))
            torch._foreach_lerp_(self._average, [value.detach() for value in self._parameters], 1 - decay)

    def apply(self) -> None:
        """Step the optimiser on the mean of the gathered gradients, at the current rate."""
        assert self.optimiser is not None
        self._prepare_gradients()
        self.optimiser.step()

    def keep_gradients(self) -> None:
        """From now on gradients are in memory that stays: autograd adds to it, and never keeps what it is given."""
        self._keeps = True
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            if not self._keeps:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._keeps and self._parameters:
            torch._foreach_zero_(list(self._gradients()))

    def discard_last(self) -> None:
        """A gradient was added, but will not be counted: let the sum weigh as much as those that were."""
        if not self.accumulated:
            self.drop_gradients()
        elif gradients := list(self._gradients()):
            torch._foreach_mul_(gradients, self.accumulated / (self.accumulated + 1))

    def _prepare_gradients(self) -> None:
        self._restride_gradients()
        if self.accumulated > 1 and (gradients := list(self._gradients())):
            torch._foreach_mul_(gradients, 1 / self.accumulated)
        if self._orthogonal is not None:
            self._orthogonal.project()
        if self._settings.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)

    def _restride_gradients(self) -> None:
        """Give gradients their parameters' strides, from which those of dimensions of size 1 may differ.

        Fused optimisers refuse such gradients on a GPU (pytorch/pytorch, issue 106951).
        """
        if self._checks:
            self._checks -= 1
            found = ((own, own.grad) for own in self._parameters if own.grad is not None)
            self._odd |= {own for own, gradient in found if gradient.stride() != own.stride()}
        for own in self._odd:
            if own.grad is not None:
                own.grad = own.grad.as_strided(own.size(), own.stride())

    def _gradients(self) -> Iterator[Tensor]:
        return (parameter.grad for parameter in self._parameters if parameter.grad is not None)

    def gradient_norm(self) -> float:
        """Euclidean norm of the mean of the accumulated gradients. Call before `update`."""
        gradients = list(self._gradients())
        return float(nn.utils.get_total_norm(gradients)) / (self.accumulated + 1) if gradients else 0.0

    def swap_average(self) -> None:
        """Swap the weights with their average, if there is one. Call before an evaluation and again after it."""
        for index, average in enumerate(self._average):
            parameter = self._parameters[index]
            self._average[index], parameter.data = parameter.data, average

    # ---- checkpoints

    def count(self, ticks: int) -> None:
        """Set the counters to `ticks` ticks, where a state is loaded that may not have them."""
        self.ticks, self.updates = ticks, ticks // self._every

    @property
    def counters(self) -> Tensor:
        """ticks, accumulated and updates, int64 [3]."""
        return torch.tensor([self.ticks, self.accumulated, self.updates])

    @counters.setter
    def counters(self, values: Tensor) -> None:
        self.ticks, self.accumulated, self.updates = values.tolist()

    def state(self) -> dict[str, Tensor]:
        """Everything but the parameters that the next update depends on, keyed by the parameters' names."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            own = self.optimiser.state.get(parameter, {}) if self.optimiser else {}
            found |= {f"optimiser.{name}.{key}": value for key, value in own.items() if isinstance(value, Tensor)}
            if parameter.grad is not None and self.accumulated:
                found[f"gradient.{name}"] = parameter.grad
        found |= {f"average.{name}": value for name, value in zip(self._named, self._average, strict=False)}
        if self._orthogonal is not None:
            found |= {f"mean.{name}": value for name, value in zip(self._named, self._orthogonal.means, strict=True)}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a state, after the weights were loaded. What the state lacks is initialised."""
        if self.optimiser is not None:
            load_state(self.optimiser, {parameter: name for name, parameter in self._named.items()}, state)
        for index, (name, parameter) in enumerate(self._named.items()):
            if f"gradient.{name}" in state:
                parameter.grad = torch.empty_like(parameter).copy_(state[f"gradient.{name}"])  # of its strides too
            if self._average:  # a missing average starts from the current weights
                self._average[index].copy_(state.get(f"average.{name}", parameter.detach()))
            if self._orthogonal is not None and f"mean.{name}" in state:
                self._orthogonal.means[index].copy_(state[f"mean.{name}"])
