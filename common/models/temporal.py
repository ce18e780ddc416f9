"""Blocks that remember what their stage saw at earlier ticks.

A stage sees the frames of its slots in order, one per tick, so a block can keep what it saw and compare:

    m(k) = detach(M(x(k), m(k-1)))        one row per slot; no gradient flows to an earlier tick

In the rows where another clip begins, the memory begins anew with that clip's first frame. `Stage` does this for every
`Memory` in its blocks, keeps one memory for training and one for each evaluation, and saves them in checkpoints. Called
outside a stage, a block behaves as on the first frame of a clip, and keeps nothing.

    Memory          the base class: implement `initial` and `step`
    Recent          the base class of blocks that look at a few earlier inputs
    Motion          the input and its differences to earlier inputs
    TemporalShift   some channels come from an earlier input (Lin et al., "TSM", ICCV 2019, one-directional)
    CausalConv      depthwise convolution over the last inputs (as the stream buffers of Kondratyuk et al., "MoViNets",
                    CVPR 2021)
    ConvGRU         a convolutional gated recurrent unit (Ballas et al., ICLR 2016)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.models.temporal_functions import overwrite_channels, replace_channels, weighted_sum


@dataclass(frozen=True)
class TickInfo:
    """What a memory needs to know about the tick.

    Attributes:
        tick: number of the frame; consecutive frames have consecutive numbers.
        fresh: bool [rows] on the memory's device, rows in which a clip begins; None if there are none.
        rows: the numbers of these rows.
    """

    tick: int
    fresh: Tensor | None
    rows: Sequence[int] = ()


class Memory(nn.Module, ABC):
    """A block with a memory of one row per slot. Subclasses implement `initial` and `step`.

    Attributes:
        state: the memory, [rows, …]; None before the first frame. It is no part of the state dict.
        instead: what computes the output from the input, in an exported program: from the consecutive frames of one
            clip, which are its rows, or with a memory that the program is given; None: this class.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None
        self.instead: Callable[[Tensor], Tensor] | None = None
        self._announced: TickInfo | None = None

    @abstractmethod
    def initial(self, x: Tensor) -> Tensor:
        """The memory, [rows, …], of clips that begin with the input x, [rows, …]. Called without gradients."""

    @abstractmethod
    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        """The output and the memory for the next tick. `tick` numbers the frames; `state` carries no gradient."""

    def begin(self, info: TickInfo) -> None:
        """Announce a forward pass that uses the memory and changes it. All others leave no trace."""
        self._announced = info

    def forward(self, x: Tensor) -> Tensor:
        """[rows, …] → the block's output, [rows, …]."""
        info, self._announced = self._announced, None
        if self.instead is not None:
            return self.instead(x)
        if info is None:
            return self.first(x)
        y, state = self.step(x, self._state_at(info, x), info.tick)
        self.state = _apart(state.detach(), x, y)
        return y

    def first(self, x: Tensor) -> Tensor:
        """The output for first frames of clips."""
        return self.step(x, self._first(x), 0)[0]

    def clip(self, x: Tensor) -> Tensor:
        """The outputs for the frames of one clip, in order, which are the rows of x."""
        state, outputs = self._first(x[:1]), []
        for tick in range(len(x)):
            y, state = self.step(x[tick : tick + 1], state, tick)
            outputs.append(y.clone())
        return torch.cat(outputs)

    def step_uncounted(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`step` for a program in which frames have no numbers. The memory may be laid out in another way there."""
        return self.step(x, state, 0)

    def fits(self, state: Tensor) -> bool:
        """Whether a memory from a checkpoint is one of this block."""
        return True

    def _first(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return _apart(self.initial(x.detach()), x)

    def _state_at(self, info: TickInfo, x: Tensor) -> Tensor:
        if self.state is None:
            return self._first(x)
        return self.state if info.fresh is None else self._renewed(self.state, info, x)

    def _renewed(self, state: Tensor, info: TickInfo, x: Tensor) -> Tensor:
        """The memory, begun anew in the rows in which a clip begins."""
        assert info.fresh is not None
        return torch.where(info.fresh.view(-1, *[1] * (state.ndim - 1)), self._first(x), state)


class Recent(Memory):
    """Looks at earlier inputs, or a part of their channels. Subclasses implement `combine`.

    The memory is a ring of the last inputs: a tick writes one of them. At the beginning of a clip all are its first.
    """

    def __init__(self, distance: int) -> None:
        """`distance`: of the earliest input that is looked at, in ticks."""
        super().__init__()
        if distance < 1:
            raise ValueError(f"an earlier input is 1 tick back or more, not {distance}")
        self._length = distance + 1  # the input of this tick is written before the backward pass reads the earliest

    def kept(self, x: Tensor) -> Tensor:
        """The part of an input that is remembered, [rows, channels, …]."""
        return x

    @abstractmethod
    def combine(self, x: Tensor, past: Callable[[int], Tensor]) -> Tensor:
        """The output. `past(n)` is what was kept n ticks ago."""

    def initial(self, x: Tensor) -> Tensor:
        """[rows, ring, …], each entry the first input."""
        kept = self.kept(x)
        return kept.unsqueeze(1).repeat(1, self._length, *[1] * (kept.ndim - 1))

    def fits(self, state: Tensor) -> bool:
        """Whether the ring is as long."""
        return state.ndim > 1 and state.shape[1] == self._length

    def first(self, x: Tensor) -> Tensor:
        """The past of a first frame is that frame."""
        return self.combine(x, lambda ticks: self.kept(x).detach())

    def clip(self, x: Tensor) -> Tensor:
        """All rows at once."""
        kept, places = self.kept(x).detach(), torch.arange(x.shape[0], device=x.device)
        return self.combine(x, lambda ticks: kept[(places - ticks).clamp(min=0)])

    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        """Combine with the past, and write this input to the ring."""
        y = self.combine(x, lambda ticks: state[:, (tick - ticks) % self._length])
        # autograd may have saved earlier entries for the backward pass: they stay, but the version counter is one for
        # all, and .data does not touch it
        state.data[:, tick % self._length] = self.kept(x).detach()
        return y, state

    def _renewed(self, state: Tensor, info: TickInfo, x: Tensor) -> Tensor:
        """In place: the other rows stay where they are. No backward pass will read what is overwritten."""
        kept = self.kept(x).detach()
        for row in info.rows:
            state.data[row] = kept[row]
        return state

    def step_uncounted(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """With the earlier inputs in their order, the last one last."""
        kept = self.kept(x)
        y = self.combine(x, lambda ticks: state[:, self._length - ticks])
        return y, torch.cat([state[:, 1:], kept.detach().unsqueeze(1)], 1)


class Motion(Recent):
    """The input, and its differences to the inputs some ticks ago, as further channels."""

    def __init__(self, gaps: Sequence[int] = (3, 6)) -> None:
        """`gaps`: distances in ticks. At 15 frames per second a frame differs little from the last one."""
        super().__init__(max(gaps, default=0))
        self.gaps = tuple(gaps)

    def combine(self, x: Tensor, past: Callable[[int], Tensor]) -> Tensor:
        """[rows, channels, …] → [rows, channels × (1 + gaps), …]."""
        return torch.cat([x, *(x - past(gap) for gap in self.gaps)], 1)

    def extra_repr(self) -> str:
        """For printing."""
        return f"gaps={self.gaps}"


class TemporalShift(Recent):
    """The first channels come from an earlier input: motion for no parameters, no computation, one direction."""

    def __init__(self, share: float = 0.25, distance: int = 4, inplace: bool = False) -> None:
        """`share` of the channels, rounded down, come from `distance` ticks ago.

        `inplace`: in the input itself, which nothing but the activation that computed it may use, and in the gradient.
        """
        super().__init__(distance)
        if not 0 < share < 1:
            raise ValueError(f"a share of the channels is between 0 and 1, not {share}")
        self.share, self.distance, self.inplace = share, distance, inplace

    def kept(self, x: Tensor) -> Tensor:
        """The channels that will be shifted."""
        return x[:, : int(self.share * x.shape[1])]

    def combine(self, x: Tensor, past: Callable[[int], Tensor]) -> Tensor:
        """[rows, channels, …] → the same shape."""
        return replace_channels(x, past(self.distance))

    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        """As `Recent.step`; in place, what is kept is written first."""
        if not self.inplace:
            return super().step(x, state, tick)
        state.data[:, tick % self._length] = self.kept(x).detach()
        return overwrite_channels(x, state[:, (tick - self.distance) % self._length]), state

    def extra_repr(self) -> str:
        """For printing."""
        return f"share={self.share}, distance={self.distance}"


class CausalConv(Recent):
    """Depthwise convolution over this input and the ones before it. It begins as the identity."""

    def __init__(self, channels: int, length: int = 3) -> None:
        """`length`: number of inputs, this one included."""
        super().__init__(length - 1)
        self.weight = nn.Parameter(torch.zeros(length, channels))
        with torch.no_grad():
            self.weight[0] = 1.0

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing, as before its training."""
        return bool((self.weight[0] == 1).all()) and not self.weight[1:].any()

    def combine(self, x: Tensor, past: Callable[[int], Tensor]) -> Tensor:
        """[rows, channels, …] → the same shape."""
        return weighted_sum(x, [past(ticks) for ticks in range(1, len(self.weight))], self.weight)


class ConvGRU(Memory):
    """A gated recurrent unit whose products are convolutions. Its output is its memory."""

    def __init__(self, channels: int, hidden: int | None = None, kernel: int = 3) -> None:
        """`hidden`: channels of the memory and of the output; default: `channels`."""
        super().__init__()
        self.hidden = hidden or channels
        self.gates = nn.Conv2d(channels + self.hidden, 2 * self.hidden, kernel, padding=kernel // 2)
        self.candidate = nn.Conv2d(channels + self.hidden, self.hidden, kernel, padding=kernel // 2)

    def initial(self, x: Tensor) -> Tensor:
        """Zeros, [rows, hidden, height, width]."""
        return x.new_zeros(x.shape[0], self.hidden, *x.shape[2:])

    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        """[rows, channels, height, width] → [rows, hidden, height, width]."""
        update, reset = self.gates(torch.cat([x, state], 1)).sigmoid().chunk(2, 1)
        candidate = self.candidate(torch.cat([x, reset * state], 1)).tanh()
        y = torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))  # autocast: half of a float32 input
        return y, y


def _apart(state: Tensor, *others: Tensor) -> Tensor:
    """The state, in memory of its own: a block's input and output may be overwritten, as by an in-place activation."""
    places = [other.untyped_storage().data_ptr() for other in others]
    return state.clone() if state.untyped_storage().data_ptr() in places else state


def memories(blocks: nn.Module) -> dict[str, Memory]:
    """The modules with a memory, by name."""
    return {name: module for name, module in blocks.named_modules() if isinstance(module, Memory)}


@contextmanager
def whole_clips(blocks: nn.Module) -> Iterator[None]:
    """Inside this context the rows of an input are the consecutive frames of one clip."""
    found = memories(blocks).values()
    for module in found:
        module.instead = module.clip
    try:
        yield
    finally:
        for module in found:
            module.instead = None
