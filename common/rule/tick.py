"""One tick of one stage: what it receives, computes and sends, in order (docs/rule.md; paper, section 3.2).

    x_i(k) = y_{i-1}(k-1)                              receive the newest input
    y_i(k) = H_i(x_i(k); θ_i)                          forward, and send
    g_i(k) = r_{i+1}(k-1), or the top stage's loss     receive the newest gradient
    Δθ_i(k), r_i(k)                                    backward at x_i(k) with g_i(k), and send
    θ_i ← optimiser(θ_i, Δθ_i(k))                      update

The stage workers' loop and the one-process reference both run this code; only their ports differ.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from common.rule.loss import Target
from common.rule.packet import Packet


class Ports(Protocol):
    """A stage's connections to its neighbours. What is sent at tick k is received at tick k + d (schedule.py)."""

    def receive_input(self, tick: int) -> Packet | None:
        """The input x(k), valid until the next call; None before the first frame reaches this stage."""

    def send_output(self, tick: int, held: Packet, y: Tensor, pooled: Sequence[Tensor]) -> None:
        """Send y(k), computed from `held`, to the stage above, and pooled along skips. Not called in the top stage."""

    def receive_gradient(self, tick: int) -> Packet | None:
        """The gradient g(k), valid until the next call; None before the first. Not called in the top stage."""

    def target(self, tick: int, held: Packet) -> Target | None:
        """The target of the frames that the top stage holds; None for tasks with labels."""

    def send_gradient(self, tick: int, source: Packet, r: Tensor, skipped: Sequence[Tensor]) -> None:
        """Send r(k), computed from `source`, to the stage below, and to the sources of skips. Not called in stage 0."""

    # the same for skips (skips.py): nothing in a pipeline without them

    def receive_skips(self, tick: int) -> Sequence[Packet]:
        """What the skips to this stage bring, in the order of their sources, valid until the next call."""

    def receive_skip_gradients(self, tick: int) -> Sequence[Packet]:
        """What the targets of this stage's skips send back, in their order, valid until the next call."""


class Computes(Protocol):
    """The computation of a stage: `Stage`, or a wrapper that times it."""

    is_first: bool
    is_top: bool

    @property
    def skip_gradients(self) -> list[Tensor]: ...
    @property
    def skip_outputs(self) -> list[Tensor]: ...
    def forward(self, x: Packet, skipped: Sequence[Packet]) -> Tensor: ...
    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet]) -> Tensor | None: ...
    def backward_from_loss(self, held: Packet, target: Target | None) -> Tensor | None: ...
    def update(self) -> None: ...


def run_tick(stage: Computes, ports: Ports, k: int) -> None:
    """Run tick k of a stage."""
    x, skipped = ports.receive_input(k), ports.receive_skips(k)
    if x is None:
        return  # the first frame has not reached this stage
    y = stage.forward(x, skipped)
    if stage.is_top:
        g, r = x, stage.backward_from_loss(x, ports.target(k, x))
    else:
        ports.send_output(k, x, y, stage.skip_outputs)
        gradient, skipped = ports.receive_gradient(k), ports.receive_skip_gradients(k)
        if gradient is None:
            return  # the first gradient has not reached this stage
        g, r = gradient, stage.backward(x, gradient, skipped)
    if not stage.is_first:
        assert r is not None, "the coordinator has checked that every block passes a gradient on"
        ports.send_gradient(k, g, r, stage.skip_gradients)
    stage.update()
