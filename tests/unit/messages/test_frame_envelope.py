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


PLACE = st.none() | st.tuples(st.integers(0, 2**31), st.integers(0, 2**40))


@given(INT64.filter(lambda n: n >= 0), INT64, INT64, st.booleans(), ROWS, PLACE)
def test_an_envelope_round_trips(
    attempt: int, phase: int, frame: int, last: bool, rows: list[tuple[int, int]], place: tuple[int, int] | None
) -> None:
    clips, labels = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    envelope = Envelope(encode_frames(attempt, phase, frame, last, clips, labels, place), len(rows), attempt)
    read = envelope.attempt, envelope.phase, envelope.frame, envelope.last, envelope.place
    assert read == (attempt, phase, frame, last, place)
    assert envelope.clips.tolist() == clips.tolist()
    assert envelope.labels.tolist() == labels.tolist()
    assert envelope.colours is None


def test_colours_round_trip() -> None:
    ids, colours = np.zeros(2, np.int64), np.array([[0.5, 1.25, 1, 0.1], [1, 1, 1, -0.3]])
    data = encode_frames(1, 0, 3, False, ids, ids, colours=colours)
    found = Envelope(data, 2, 1).colours
    assert found is not None
    assert np.array_equal(found, colours)
    wrong = encode_frames(1, 0, 3, False, ids, ids, colours=colours[:1])
    with pytest.raises(PeerError, match="malformed"):
        Envelope(wrong, 2, 1)


VALUES = st.recursive(
    st.none() | st.booleans() | INT64 | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("place", [1, [1], [1, 2, 3], [-1, 0], [1, -1], [True, 0], [1, 0.0], "10", b"10"])
def test_an_invalid_place_is_refused(place: object) -> None:
    fields = {
        "attempt": 1,
        "phase": 0,
        "frame": 2,
        "last": False,
        "clips": bytes(8),
        "labels": bytes(8),
        "colours": None,
    }
    assert Envelope(msgpack.packb(fields | {"place": [1, 96]}), 1, 1).place == (1, 96)
    with pytest.raises(PeerError, match="malformed"):
        Envelope(msgpack.packb(fields | {"place": place}), 1, 1)


@given(
    st.dictionaries(
        st.sampled_from(["attempt", "phase", "frame", "last", "place", "clips", "labels", "colours"]), VALUES
    )
)
def test_malformed_envelopes_raise_a_sideways_error(fields: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        Envelope(msgpack.packb(fields), 3, 1)
