"""A stage's memories: training and evaluation apart, and in checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.models.temporal import Motion, TemporalShift
from common.rule.memories import Memories
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from tests.support.settings import config_of


def pipeline() -> tuple[nn.Sequential, Memories]:
    torch.manual_seed(0)
    blocks = nn.Sequential(Motion((1,)), nn.Conv2d(4, 4, 1), TemporalShift(0.5, 1))
    return blocks, Memories(blocks)


def tick(blocks: nn.Sequential, memories: Memories, number: int, clips: tuple[int, int] = (1, 2)) -> Tensor:
    x = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(number))
    memories.begin(np.array(clips), number, torch.device("cpu"))
    found: Tensor = blocks(x).detach()
    return found


def test_an_evaluation_has_memories_of_its_own() -> None:
    (blocks, memories), (others, untouched) = pipeline(), pipeline()
    others.load_state_dict(blocks.state_dict())
    for number in range(3):
        tick(blocks, memories, number)
        tick(others, untouched, number)
    memories.set_aside()
    fresh, same = pipeline()
    fresh.load_state_dict(blocks.state_dict())
    for number in range(2):
        assert torch.equal(tick(blocks, memories, number), tick(fresh, same, number))
    memories.put_back()
    assert torch.equal(tick(blocks, memories, 3), tick(others, untouched, 3))


def test_saved_memories_go_on_in_the_middle_of_a_clip() -> None:
    blocks, memories = pipeline()
    for number in range(3):
        tick(blocks, memories, number)
    saved = {name: value.clone() for name, value in memories.state().items()}
    assert set(saved) == {"0", "2", "@clips"}
    others, restored = pipeline()
    others.load_state_dict(blocks.state_dict())
    restored.load(saved)
    for number in range(3, 7):
        clips = (1, 2) if number < 5 else (7, 2)
        assert torch.equal(tick(blocks, memories, number, clips), tick(others, restored, number, clips))
    restored.load({})
    assert restored.state() == {}


def test_memories_of_other_blocks_are_forgotten() -> None:
    """As with another distance, which no parameter's shape tells."""
    blocks, memories = pipeline()
    tick(blocks, memories, 0)
    saved = memories.state()
    _, other = pipeline()
    other.load({name: value for name, value in saved.items() if name != "0"})
    assert other.state() == {}
    longer = Memories(nn.Sequential(Motion((2,)), nn.Conv2d(4, 4, 1), TemporalShift(0.5, 1)))
    longer.load(saved)
    assert longer.state() == {}


def test_blocks_without_memory_have_none() -> None:
    memories = Memories(nn.Sequential(nn.Linear(2, 2)))
    assert not memories
    assert memories.state() == {}


def test_micro_batches_have_the_rows_of_the_batch() -> None:
    """Also after a checkpoint, and with an evaluation between two steps."""
    (whole, memories), (blocks, parts) = pipeline(), pipeline()
    blocks.load_state_dict(whole.state_dict())
    cpu = torch.device("cpu")
    for number in range(6):
        clips = np.array([1, 2, 3, 4 if number < 3 else 5])
        x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(number))
        memories.begin(clips, number, cpu)
        expected = whole(x).detach()
        for part in range(2):
            rows = slice(2 * part, 2 * part + 2)
            parts.begin(clips[rows], number, cpu, part)
            torch.testing.assert_close(blocks(x[rows]).detach(), expected[rows])
        if number == 1:
            parts.set_aside()
            tick(blocks, parts, 0)
            parts.put_back()
        if number == 3:
            saved = {name: value.clone() for name, value in parts.state().items()}
            assert saved["@clips"].tolist() == clips.tolist()
            parts.load(saved, 2)


@pytest.mark.parametrize("temporal", ["motion", "shift", "conv"])
def test_what_is_remembered_does_not_grow_with_the_depth(tmp_path: Path, temporal: str) -> None:
    """A stage remembers frames of its own blocks, however many stages there are."""
    found = set()
    for split in ([8], [4, 4], [2, 2, 2, 2]):
        config = config_of(
            tmp_path, stages=len(split), split=split, model_args={"width": 4, "temporal": temporal}, data__size=16
        )
        stages = build_stages(config, 3, 100)
        reference, packet = Reference(stages, config.frame_shape), Packet(config.frame_shape)
        for tick in range(3 * len(split)):
            packet.set_header(tick - 1, tick)
            reference.tick(packet)
        found.add(sum(stage.memories.nbytes for stage in stages))
    assert len(found) == 1
    assert found.pop() > 0
