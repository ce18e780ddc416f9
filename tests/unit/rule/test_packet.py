"""Packets and their buffers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.rule.packet import Packet, StagedPacket, packet_bytes

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


Form = Callable[[list[int], torch.dtype], Packet]
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def in_one_piece(shape: list[int], dtype: torch.dtype) -> Packet:
    return Packet(shape, dtype)


def apart(shape: list[int], dtype: torch.dtype) -> Packet:
    """As on a GPU."""
    return Packet(shape, dtype, tensor=torch.zeros(shape, dtype=dtype))


def staged(shape: list[int], dtype: torch.dtype) -> Packet:
    """As on a GPU whose tensors gloo sends: cpu:0 is not the same device as cpu."""
    return StagedPacket(shape, dtype, torch.device("cpu", 0))


def in_one_piece_last(shape: list[int], dtype: torch.dtype) -> Packet:
    return Packet(shape, dtype, channels_last=True)


def staged_last(shape: list[int], dtype: torch.dtype) -> Packet:
    return StagedPacket(shape, dtype, torch.device("cpu", 0), channels_last=True)


FORMS = st.sampled_from([in_one_piece, apart, staged, in_one_piece_last, staged_last])


@given(FORMS, FORMS, SHAPES, INT64, INT64, st.booleans(), st.sampled_from([torch.float32, torch.float64]), st.data())
def test_a_packets_bytes_carry_all_of_it(
    sends: Form, receives: Form, shape: list[int], tick: int, frame: int, last: bool, dtype: torch.dtype, data: Any
) -> None:
    sent, got = sends(shape, dtype), receives(shape, dtype)
    sent.set_header(tick, frame, last)
    sent.clips[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.labels[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.tensor.copy_(torch.randn(shape, dtype=dtype))
    sent.flush()
    got.from_bytes(sent.to_bytes())  # as a transport does
    got.load()
    assert sent.to_bytes().nbytes == sent.nbytes == packet_bytes(shape, dtype)
    assert (got.tick, got.frame, got.last) == (tick, frame, last)
    assert np.array_equal(got.clips, sent.clips)
    assert got.label_tensor.tolist() == sent.labels.tolist()
    assert torch.equal(got.tensor, sent.tensor)
    assert got.tensor.data_ptr() % 64 == got.header.data_ptr() % 64


def test_maps_are_in_the_runs_order_in_the_message_and_contiguous_in_bytes() -> None:
    packet = Packet((2, 3, 4, 5), channels_last=True)
    values = torch.randn(2, 3, 4, 5)
    packet.tensor.copy_(values)
    assert packet.tensor.is_contiguous(memory_format=torch.channels_last)
    assert packet.dense.is_contiguous()
    assert packet.buffer is not None
    start = packet.header.nbytes
    assert torch.equal(packet.buffer[start:].view(torch.float32), values.permute(0, 2, 3, 1).flatten())
    assert torch.equal(packet.to_bytes()[start:].view(torch.float32), values.flatten())


def test_packing_takes_the_sources_rows_and_this_ticks_number() -> None:
    source, made = Packet((2, 3)), Packet((2, 5))
    source.set_header(6, 4)
    source.clips[:], source.labels[:] = [8, 9], [1, 2]
    made.pack(7, source, torch.ones(2, 5, requires_grad=True))
    assert (made.tick, made.frame, made.clips.tolist(), made.labels.tolist()) == (7, 4, [8, 9], [1, 2])
    assert not made.tensor.requires_grad
