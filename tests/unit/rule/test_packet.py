"""Packets and their buffers."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.rule.packet import Packet

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(SHAPES, INT64, INT64, st.booleans(), st.sampled_from([torch.float32, torch.float64]), st.data())
def test_a_packets_buffer_holds_all_of_its_fields(
    shape: list[int], tick: int, frame: int, last: bool, dtype: torch.dtype, data: st.DataObject
) -> None:
    sent, got = Packet(shape, dtype), Packet(shape, dtype)
    sent.set_header(tick, frame, last)
    sent.clips[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.labels[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.tensor.copy_(torch.randn(shape, dtype=dtype))
    got.buffer.copy_(sent.buffer)  # as a transport does
    assert (got.tick, got.frame, got.last) == (tick, frame, last)
    assert np.array_equal(got.clips, sent.clips)
    assert got.label_tensor.tolist() == sent.labels.tolist()
    assert torch.equal(got.tensor, sent.tensor)
    assert got.tensor.data_ptr() % 64 == got.buffer.data_ptr() % 64


def test_packing_takes_the_sources_rows_and_this_ticks_number() -> None:
    source, made = Packet((2, 3)), Packet((2, 5))
    source.set_header(6, 4)
    source.clips[:], source.labels[:] = [8, 9], [1, 2]
    made.pack(7, source, torch.ones(2, 5, requires_grad=True))
    assert (made.tick, made.frame, made.clips.tolist(), made.labels.tolist()) == (7, 4, [8, 9], [1, 2])
    assert not made.tensor.requires_grad
