"""A stage that records its passes and replays them (graph), after it has seen that the replay equals them.

    ticks      2                 2                                    from then on
    the tick   runs normally     runs normally, and a replay is compared   is a replay

Before the replay that is compared, everything that the tick has changed is set back. If any value of it differs (the
output, the input's gradient, the parameters, their buffers, the optimiser's state), or if recording fails, the stage
goes on normally, with what the tick itself has computed. Two ticks are compared, since the first replay has the numbers
that were recorded: what should change with the tick but was recorded as a number shows in the second.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import first_line
from common.rule.graphs import Recorder
from common.rule.loss import EVERY_ROW, Target
from common.rule.packet import Packet
from common.rule.passes import Passes
from common.rule.stage import Stage

_UNTRIED = 2  # updates after which the optimiser has all its state, and libraries have chosen their kernels
_COMPARED = 2  # ticks


@dataclass
class _Tick:
    """What a tick that is compared started from, and what it computed."""

    before: list[Tensor]
    seed: int
    x: Tensor
    y: Tensor
    g: Tensor | None = None
    r: Tensor | None = None


class GraphedStage(Stage):
    """A stage whose ticks are replays where that is possible. It computes what `Stage` does, bit for bit."""

    def __init__(self, *arguments: Any, recorder: Recorder, **options: Any) -> None:
        """Arguments as for `Stage`; `recorder` records its passes."""
        super().__init__(*arguments, **options)
        self._recorder = recorder
        self._given_up = False
        self._forget()

    @property
    def replays(self) -> bool:
        """Whether ticks are replays by now."""
        return self.updater.replay is not None

    def _forget(self) -> None:
        """Begin anew: the memory that the recordings use is not in use any more."""
        self._passes: Passes | None = None
        self._tick: _Tick | None = None
        self._updates = 0
        if self.updater.replay is not None:
            self.updater.replay = None
            self.updater.drop_gradients()

    def forward(self, x: Packet, skipped: Sequence[Packet] = ()) -> Tensor:
        """y(k) from x(k)."""
        self._tick = None
        if self.replays:
            assert self._passes is not None
            return self._passes.forward(x.tensor, self._seed_of(x.frame))
        if self._given_up or self._updates < _UNTRIED:
            return super().forward(x, skipped)
        self.updater.drop_gradients()
        before, kept = [value.clone() for value in self._changing()], x.tensor.clone()
        # Without its graph: the caller still has y when the passes are captured, and as long as a graph lives, so do
        # autograd's nodes for the parameters, whose stream is this tick's. A capture must not wait for that stream.
        y = super().forward(x, skipped).detach()
        self._tick = _Tick(before, self._seed_of(x.frame), kept, y.clone())
        return y

    def backward(self, held: Packet, gradient: Packet, skipped: Sequence[Packet] = ()) -> Tensor | None:
        """Δθ(k) and r(k) from the newest gradient, which is gated in place."""
        self._gate(held, gradient, skipped)
        return self._from(gradient.tensor)

    def backward_from_loss(self, held: Packet, target: Target | None) -> Tensor | None:
        """The same from the loss, which is computed apart: which rows count in it differs from tick to tick."""
        self.rows += len(held.clips)
        y = self._passes.y if self._passes is not None and self.replays else self._output
        assert y is not None
        leaf = y.detach().requires_grad_()
        loss = self.objective(leaf, held, target, EVERY_ROW)
        self.loss = loss.detach()
        return self._from(torch.autograd.grad(loss, leaf)[0])

    def _from(self, g: Tensor) -> Tensor | None:
        self._begin_gradients()
        if self.replays:
            assert self._passes is not None
            return self._passes.backward(g)
        assert self._output is not None
        if self._output.requires_grad:
            torch.autograd.backward(self._output, g)
        r = self._drop_graph()
        if self._tick is not None:
            self._tick.g, self._tick.r = g.clone(), r if r is None else r.clone()
        return r

    def update(self) -> None:
        """θ ← optimiser(θ, Δθ)."""
        super().update()
        self._updates += 1
        if self._tick is not None and self._tick.g is not None:
            self._compare(self._tick)
            self._tick = None

    def finish_update(self) -> None:
        """Apply a gradient whose tick was interrupted before its update."""
        self._tick = None
        super().finish_update()

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave."""
        super().load(state)
        self._forget()

    # ---- before ticks are replays

    def _changing(self) -> list[Tensor]:
        """All that a tick changes."""
        optimiser = self.updater.optimiser
        kept = [value for own in optimiser.state.values() for value in own.values()] if optimiser is not None else []
        tensors = [*self.blocks.parameters(), *self.blocks.buffers(), *kept]
        return [value.detach() for value in tensors if isinstance(value, Tensor)]

    def _compare(self, tick: _Tick) -> None:
        after = [value.clone() for value in self._changing()]
        try:
            problem = self._difference(tick, after)
        except Exception as error:  # whatever torch, its libraries or the user's blocks raise
            problem = _cause(error)
        if problem:
            self._set(after)
            self._given_up, self._passes = True, None
            self.updater.drop_gradients()
            warnings.warn(
                f"stage {self.index}: its ticks cannot be replayed as graphs ({problem}): it goes on without, which is "
                "slower. Kernels that sum in any order differ from replay to replay: try deterministic = true, or set "
                "graph = false to begin so",
                stacklevel=2,
            )
        elif self._updates >= _UNTRIED + _COMPARED:
            assert self._passes is not None
            self._passes.attach()
            self.updater.replay = self._passes.update

    def _difference(self, tick: _Tick, after: list[Tensor]) -> str:
        """Replay a tick that has run. Returns which part differs; empty if all is the same, bit for bit."""
        assert tick.g is not None
        self._set(tick.before)
        if self._passes is None:
            first = self.is_first
            self._passes = Passes(self._compute, self.updater, self._recorder, tick.x, tick.g, first)
            self._set(tick.before)  # recording may have computed
        passes = self._passes
        y = passes.forward(tick.x, tick.seed)
        r = passes.backward(tick.g)
        passes.update()
        if not torch.equal(y, tick.y):
            return "its output differs from that of the tick itself"
        if (r is None) != (tick.r is None) or (r is not None and tick.r is not None and not torch.equal(r, tick.r)):
            return "the gradient of its input differs from that of the tick itself"
        same = all(torch.equal(now, then) for now, then in zip(self._changing(), after, strict=True))
        return "" if same else "its parameters differ from those of the tick itself"

    def _set(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._changing(), values)


def _cause(error: BaseException) -> str:
    """What was raised first: a capture that is ended by an error raises another one."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {first_line(error)}"
