"""Packets and messages: what goes in comes out, and what is not ours is refused."""

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.encoding import decode, encode
from common.messages.frame_envelope import Envelope, encode_frames
from common.rule.packet import Packet
from common.rule.pixels import normalise

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(SHAPES, INT64, INT64, st.booleans(), st.sampled_from([torch.float32, torch.float64]), st.data())
def test_a_packets_buffer_carries_all_of_it(
    shape: list[int], tick: int, frame: int, last: bool, dtype: torch.dtype, data: st.DataObject
) -> None:
    sent, got = Packet(shape, dtype), Packet(shape, dtype)
    sent.label(tick, frame, last)
    sent.clips[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.labels[:] = data.draw(st.lists(INT64, min_size=shape[0], max_size=shape[0]))
    sent.tensor.copy_(torch.randn(shape, dtype=dtype))
    got.buffer.copy_(sent.buffer)  # the wire
    assert (got.tick, got.frame, got.last) == (tick, frame, last)
    assert np.array_equal(got.clips, sent.clips)
    assert got.label_tensor.tolist() == sent.labels.tolist()
    assert torch.equal(got.tensor, sent.tensor)
    assert got.tensor.data_ptr() % 64 == got.buffer.data_ptr() % 64


def test_packing_takes_the_sources_rows_and_this_ticks_number() -> None:
    source, made = Packet((2, 3)), Packet((2, 5))
    source.label(6, 4)
    source.clips[:], source.labels[:] = [8, 9], [1, 2]
    made.pack(7, source, torch.ones(2, 5, requires_grad=True))
    assert (made.tick, made.frame, made.clips.tolist(), made.labels.tolist()) == (7, 4, [8, 9], [1, 2])
    assert not made.tensor.requires_grad


def test_normalise() -> None:
    out = torch.empty(1, 1, 1, 3)
    normalise(out, torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), mean=0.5, std=0.25)
    torch.testing.assert_close(out.flatten(), torch.tensor([-2.0, -1.2, 2.0]))


ROWS = st.lists(st.tuples(INT64, INT64), min_size=1, max_size=9)


SLOT = st.none() | st.integers(0, 2**31)


@given(INT64.filter(lambda n: n >= 0), INT64, INT64, st.booleans(), ROWS, SLOT)
def test_an_envelope_reads_back(
    attempt: int, phase: int, frame: int, last: bool, rows: list[tuple[int, int]], slot: int | None
) -> None:
    clips, labels = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    envelope = Envelope(encode_frames(attempt, phase, frame, last, clips, labels, slot), len(rows), attempt)
    read = envelope.attempt, envelope.phase, envelope.frame, envelope.last, envelope.slot
    assert read == (attempt, phase, frame, last, slot)
    assert envelope.clips.tolist() == clips.tolist()
    assert envelope.labels.tolist() == labels.tolist()


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(PeerError):
        Envelope(data, 3, 1)


VALUES = st.recursive(
    st.none() | st.booleans() | INT64 | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("slot", [-1, True, 1.0, "1", b"1"])
def test_a_slot_that_there_is_not_is_refused(slot: object) -> None:
    fields = {"attempt": 1, "phase": 0, "frame": 2, "last": False, "slot": 1, "clips": bytes(8), "labels": bytes(8)}
    assert Envelope(msgpack.packb(fields), 1, 1).slot == 1
    with pytest.raises(PeerError, match="malformed"):
        Envelope(msgpack.packb(fields | {"slot": slot}), 1, 1)


@given(st.dictionaries(st.sampled_from(["attempt", "phase", "frame", "last", "slot", "clips", "labels", "x"]), VALUES))
def test_malformed_envelopes_are_refused_with_a_sentence(fields: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        Envelope(msgpack.packb(fields), 3, 1)


def test_reports_read_back_and_anything_but_a_map_is_refused() -> None:
    assert decode(encode({"kind": "done", "stage": 3})) == {"kind": "done", "stage": 3}
    for message in ([1, 2], "text", {1: 2}):
        with pytest.raises(PeerError):
            decode(msgpack.packb(message))
