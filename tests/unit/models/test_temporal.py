"""Blocks that remember: what they see of the past, where it begins anew, and that nothing else changes it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.models.temporal import CausalConv, ConvGRU, Memory, Motion, TemporalShift
from common.rule.memories import Memories

CHANNELS, SIDE = 4, 3
CPU = torch.device("cpu")
Make = Callable[[], Memory]


def shifted() -> Memory:
    return TemporalShift(share=0.5, distance=2)


def shifted_in_place() -> Memory:
    return TemporalShift(share=0.5, distance=2, inplace=True)


def causal() -> Memory:
    torch.manual_seed(1)
    block = CausalConv(CHANNELS, length=3)
    nn.init.normal_(block.weight)
    return block


def recurrent() -> Memory:
    torch.manual_seed(2)
    return ConvGRU(CHANNELS, hidden=5)


def motion() -> Memory:
    return Motion(gaps=(1, 3))


BLOCKS = pytest.mark.parametrize("make", [motion, shifted, shifted_in_place, causal, recurrent])


def clip(frames: int, seed: int = 0) -> Tensor:
    """[frames, channels, side, side]."""
    return torch.randn(frames, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def played(block: Memory, clips: list[list[Tensor]]) -> list[list[Tensor]]:
    """The outputs for slots that play clips back to back, one frame of each slot per tick; by slot and clip."""
    memories = Memories(nn.Sequential(block))
    ends = [np.cumsum([len(one) for one in slot]) for slot in clips]
    frames = [torch.cat(slot) for slot in clips]
    outputs = []
    for tick in range(min(len(one) for one in frames)):
        numbers = [100 * slot + int(np.searchsorted(end, tick, side="right")) for slot, end in enumerate(ends)]
        memories.begin(np.array(numbers), tick, CPU)
        outputs.append(block(torch.stack([one[tick] for one in frames])).detach())
    whole = torch.stack(outputs, 1)  # [slots, ticks, …]
    return [list(whole[slot].split([len(one) for one in clips[slot]])) for slot in range(len(clips))]


@BLOCKS
def test_each_row_remembers_its_own_clip_from_its_first_frame_on(make: Make) -> None:
    """Two slots with clips that end at different ticks give what each clip gives by itself."""
    clips = [[clip(5, 1), clip(4, 2), clip(3, 3)], [clip(2, 4), clip(10, 5)]]
    for slot, outputs in zip(clips, played(make(), clips), strict=True):
        for frames, found in zip(slot, outputs, strict=True):
            alone = played(make(), [[frames]])[0][0]
            assert torch.equal(found, alone) if make is not recurrent else torch.allclose(found, alone, atol=1e-6)


@BLOCKS
def test_a_whole_clip_at_once_gives_the_same(make: Make) -> None:
    block, frames = make(), clip(9)
    expected = played(block, [[frames]])[0][0]
    block.instead = block.clip
    with torch.no_grad():
        torch.testing.assert_close(block(frames), expected, rtol=1e-5, atol=1e-6)


@BLOCKS
def test_a_pass_that_was_not_announced_leaves_no_trace(make: Make) -> None:
    """Such as those that time a block, find its shapes or check it: each frame is the first of a clip."""
    block, frames = make(), clip(3)
    memories = Memories(nn.Sequential(block))
    with torch.no_grad():
        for tick in range(3):
            memories.begin(np.array([0]), tick, CPU)
            block(frames[tick : tick + 1])
        before = {name: value.clone() for name, value in memories.state().items()}
        first = block(frames)
        assert all(torch.equal(value, before[name]) for name, value in memories.state().items())
    alone = [played(make(), [[frame[None]]])[0][0] for frame in frames]
    torch.testing.assert_close(first, torch.cat(alone), rtol=1e-5, atol=1e-6)


@BLOCKS
def test_gradients_reach_this_ticks_input_and_the_parameters_alone(make: Make) -> None:
    block, frames = make(), clip(6)
    memories = Memories(nn.Sequential(block))
    for tick in range(6):
        x = frames[tick : tick + 1].clone().requires_grad_()
        memories.begin(np.array([0]), tick, CPU)
        block(x).square().sum().backward()  # fails if the memory overwrote what the backward pass needs
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
        assert not any(value.requires_grad for value in memories.state().values())
    assert all(parameter.grad is not None for parameter in block.parameters())


def test_motion_is_the_difference_to_earlier_frames() -> None:
    frames = clip(5)
    found = played(Motion(gaps=(2,)), [[frames]])[0][0]
    earlier = frames[[0, 0, 0, 1, 2]]
    assert torch.equal(found, torch.cat([frames, frames - earlier], 1))


def test_a_shift_takes_the_first_channels_from_the_past() -> None:
    frames = clip(4)
    found = played(TemporalShift(share=0.25, distance=2), [[frames]])[0][0]
    assert torch.equal(found[3, :1], frames[1, :1])
    assert torch.equal(found[:, 1:], frames[:, 1:])


def test_a_causal_convolution_begins_as_the_identity() -> None:
    frames = clip(4)
    assert torch.equal(played(CausalConv(CHANNELS), [[frames]])[0][0], frames)


@pytest.mark.parametrize("wrong", [lambda: Motion(()), lambda: TemporalShift(distance=0), lambda: TemporalShift(1.0)])
def test_impossible_arguments_are_refused(wrong: Make) -> None:
    with pytest.raises(ValueError, match=r"an earlier input is|a share of the channels is"):
        wrong()


def test_a_memory_is_not_what_an_activation_writes_to() -> None:
    """A GRU's output is its memory, and an activation that works in place may follow it."""
    block, frames = recurrent(), clip(3)
    plain = played(block, [[frames]])[0][0]
    memories = Memories(block)
    for tick in range(3):
        memories.begin(np.array([0]), tick, CPU)
        found = block(frames[tick : tick + 1])
        assert torch.equal(found[0], plain[tick])
        found.detach().zero_()


class Kept(Memory):
    """Its memory is the first frame itself."""

    def initial(self, x: Tensor) -> Tensor:
        return x

    def step(self, x: Tensor, state: Tensor, tick: int) -> tuple[Tensor, Tensor]:
        return x - state, state


def test_a_memory_is_not_the_input_buffer() -> None:
    """Which the next tick overwrites."""
    block, buffer, frames = Kept(), torch.empty(1, CHANNELS, SIDE, SIDE), clip(3)
    memories = Memories(block)
    for tick in range(3):
        buffer.copy_(frames[tick : tick + 1])
        memories.begin(np.array([0]), tick, CPU)
        assert torch.equal(block(buffer)[0], frames[tick] - frames[0])


def test_a_shift_in_place_computes_the_same() -> None:
    """After a ReLU, which keeps its output for its backward pass. The ring, outputs and gradients are equal."""
    frames, results = clip(7), []
    for inplace in (False, True):
        torch.manual_seed(3)
        before, after = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(CHANNELS, 2, 1)
        block = nn.Sequential(before, nn.ReLU(inplace=True), TemporalShift(0.5, 2, inplace), after)
        memories = Memories(block)
        outputs = []
        for tick in range(len(frames)):
            memories.begin(np.array([tick // 4]), tick, CPU)
            outputs.append(block(frames[tick : tick + 1]))
            outputs[-1].square().sum().backward()
        assert before.weight.grad is not None
        assert after.weight.grad is not None
        results.append([*outputs, before.weight.grad, after.weight.grad, *memories.state().values()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("make", [shifted, causal])
def test_gradients_are_those_of_torchs_own_operators(make: Make) -> None:
    block, frames = make(), clip(3).double()
    block.double()
    past = [frames[1:2], frames[:1]]  # one and two ticks ago
    state = torch.stack([frames[:1], frames[1:2], frames[:1]], 1)  # the ring at tick 2

    def plain(x: Tensor) -> Tensor:
        if isinstance(block, TemporalShift):
            return torch.cat([past[1][:, :2], x[:, 2:]], 1)
        assert isinstance(block, CausalConv)
        return sum(each * own[:, None, None] for each, own in zip([x, *past], block.weight, strict=True))

    if isinstance(block, TemporalShift):
        state = state[:, :, :2].clone()
    found = []
    for compute in (plain, lambda x: block.step(x, state, 2)[0]):
        x = frames[2:].clone().requires_grad_()
        block.zero_grad(set_to_none=True)
        y = compute(x)
        y.sin().sum().backward()
        found.append([y, x.grad, *(parameter.grad for parameter in block.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_rows_in_which_a_clip_begins_begin_anew() -> None:
    """In place: the ring stays where it is."""
    block, frames = Motion((2,)), clip(4)
    memories = Memories(nn.Sequential(block))
    places = []
    for tick, clips in enumerate(([1, 2], [1, 2], [1, 3], [4, 3])):
        memories.begin(np.array(clips), tick, CPU)
        found = block(frames[tick].expand(2, -1, -1, -1))
        assert block.state is not None
        places.append(block.state.data_ptr())
    assert len(set(places)) == 1
    assert torch.equal(found[0, CHANNELS:], torch.zeros_like(frames[0])), "a clip's first frame is all of its past"
    assert torch.equal(found[1, CHANNELS:], frames[3] - frames[2]), "its past ends with its first frame"


def test_a_recurrent_unit_runs_under_autocast() -> None:
    block, x = recurrent(), torch.randn(2, CHANNELS, SIDE, SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    torch.testing.assert_close(y.float(), block(x), rtol=0.05, atol=0.05)
