"""The settings of the rule, the optimiser, probes and checkpoints."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.config.plain_values import Arguments
from common.config.section import Section

Rate = Annotated[float, Field(gt=0, le=1000)]


class Rule(Section):
    """Options of the Sideways rule."""

    boundary: Literal["gate", "mix"] = Field(
        "gate", description="gate: drop gradients of another clip than the input's; mix: keep them"
    )
    every: int = Field(1, ge=1, description="ticks per parameter update, which uses the mean of their gradients")
    auxiliary: float = Field(
        0.0,
        ge=0,
        le=100,
        description="tasks with labels: initial weight of the loss of a linear layer on each stage's output; 0: off",
    )
    auxiliary_until: float = Field(
        0.5, gt=0, le=1, description="fraction of the ticks after which that weight has fallen to 0, linearly"
    )


class Optimiser(Section):
    """The optimiser, a torch.optim class.

    Gradients are delayed, so the defaults use no momentum, and a lower learning rate the larger a stage's mismatch is
    (docs/learning.md).
    """

    name: str = Field("AdamW", description="name of a class of torch.optim")
    lr: float = Field(1e-3, ge=0, description="learning rate; the maximum of the schedule")
    lr_by_mismatch: bool = Field(True, description="divide a stage's learning rate by 1 + its mismatch in frames")
    rates: dict[str, Rate] = Field(
        default_factory=dict,
        description="factors of the learning rate of parts or parameters, by patterns as in freeze, such as "
        '{ "stem" = 0.1, "layer1.*" = 0.3 }; the first pattern that matches counts',
    )
    args: Arguments = Field(
        default_factory=dict,
        description="further arguments of the class; for Adam and AdamW, betas default to [0, 0.999]",
    )
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = Field(
        "constant", description="learning rate schedule over the planned ticks, after the warm-up"
    )
    warmup: int = Field(0, ge=0, description="ticks over which the learning rate rises linearly from 0")
    final: float = Field(0.0, ge=0, le=1, description="cosine and one-cycle: final learning rate as a fraction of lr")
    steps: list[float] = Field(
        [0.5, 0.75], description="step: fractions of the ticks after which the learning rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor of the learning rate at each step")
    peak: float = Field(0.3, gt=0, lt=1, description="one-cycle: fraction of the ticks at which the rate peaks")
    decay_all: bool = Field(False, description="apply weight decay to normalisation parameters and biases too")
    clip: float | None = Field(None, gt=0, description="maximum norm of a stage's gradient, for gradient clipping")
    orthogonal: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a mean of the gradients, whose direction is removed from gradients; 0: off",
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is evaluated and saved; 0: off"
    )

    @model_validator(mode="after")
    def _steps_are_fractions(self) -> "Optimiser":
        if self.steps != sorted(self.steps) or not all(0 < step < 1 for step in self.steps):
            raise ValueError(f"optimiser.steps = {self.steps} must be increasing fractions between 0 and 1")
        return self


class Probe(Section):
    """Periodic comparison of the pseudo-gradients with backpropagation's gradients."""

    every: int = Field(0, ge=0, description="ticks between probes; 0: no probes")


class Checkpoint(Section):
    """When checkpoints are taken, and how many are kept."""

    every: int = Field(1000, ge=0, description="ticks between checkpoints; 0: only when the run ends or is stopped")
    keep: int = Field(3, ge=1, le=1000, description="number of newest checkpoints to keep, besides the best")
    best: str | None = Field(
        None,
        description="figure of the evaluations whose largest value, or for errors smallest, makes a checkpoint the "
        "best, such as val_map; - before it: always the smallest; default: val_top1, val_map or val_mse",
    )
