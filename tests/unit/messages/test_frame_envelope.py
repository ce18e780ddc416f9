"""Envelopes of frame batches: they round-trip, and malformed ones are refused."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.frame_envelope import Envelope, encode_frames

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


ROWS = st.lists(st.tuples(INT64, INT64), min_size=1, max_size=9)


SLOT = st.none() | st.integers(0, 2**31)


@given(INT64.filter(lambda n: n >= 0), INT64, INT64, st.booleans(), ROWS, SLOT)
def test_an_envelope_round_trips(
    attempt: int, phase: int, frame: int, last: bool, rows: list[tuple[int, int]], slot: int | None
) -> None:
    clips, labels = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    envelope = Envelope(encode_frames(attempt, phase, frame, last, clips, labels, slot), len(rows), attempt)
    read = envelope.attempt, envelope.phase, envelope.frame, envelope.last, envelope.slot
    assert read == (attempt, phase, frame, last, slot)
    assert envelope.clips.tolist() == clips.tolist()
    assert envelope.labels.tolist() == labels.tolist()


VALUES = st.recursive(
    st.none() | st.booleans() | INT64 | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("slot", [-1, True, 1.0, "1", b"1"])
def test_an_invalid_slot_is_refused(slot: object) -> None:
    fields = {"attempt": 1, "phase": 0, "frame": 2, "last": False, "slot": 1, "clips": bytes(8), "labels": bytes(8)}
    assert Envelope(msgpack.packb(fields), 1, 1).slot == 1
    with pytest.raises(PeerError, match="malformed"):
        Envelope(msgpack.packb(fields | {"slot": slot}), 1, 1)


@given(st.dictionaries(st.sampled_from(["attempt", "phase", "frame", "last", "slot", "clips", "labels", "x"]), VALUES))
def test_malformed_envelopes_raise_a_sideways_error(fields: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        Envelope(msgpack.packb(fields), 3, 1)
