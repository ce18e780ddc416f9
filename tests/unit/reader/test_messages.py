"""Messages between the coordinator and a reader: what is refused."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.encoding import OtherAttemptError, encode
from coordinator.reader.messages import Fed, Feed, decode_message, decode_places, encode_message, encode_places


def test_a_message_arrives_as_it_was_sent() -> None:
    places = [(7, 0), (1 << 40, 31)]
    fed = Fed(attempt=3, frame=12, places=encode_places(places), mishaps=[1, 0, 2, 0], reasons=["bad.mp4"])
    received = decode_message(encode_message(fed), 3)
    assert received == fed
    assert isinstance(received, Fed)
    assert decode_places(received.places, 2) == places


def test_messages_of_another_attempt_and_malformed_ones_are_refused() -> None:
    with pytest.raises(OtherAttemptError):
        decode_message(encode_message(Feed(attempt=2, end=1)), 3)
    for fields in ({"kind": "feed", "end": -1}, {"kind": "feed"}, {"kind": "other"}, {"kind": "quit", "code": 256}):
        with pytest.raises(PeerError, match=r"a reader.s message is malformed .* is another program sending"):
            decode_message(encode({"attempt": 3, **fields}), 3)
    with pytest.raises(PeerError, match="16 bytes of places for 2 slots"):
        decode_places(encode_places([(1, 2)]), 2)


@given(st.binary() | st.dictionaries(st.text(), st.none() | st.integers(-9, 9) | st.text() | st.binary()).map(encode))
def test_whatever_arrives_is_a_message_or_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        decode_message(data, 3)


@given(
    st.sampled_from(["frame", "places", "mishaps", "reasons", "data_error", "read_seconds", "attempt"]),
    st.text(min_size=1) | st.integers(-(2**63), -1) | st.booleans() | st.lists(st.booleans(), min_size=1),
)
def test_a_report_with_a_wrong_field_is_refused(name: str, value: object) -> None:
    assume((name, type(value)) not in (("data_error", str), ("attempt", int)))
    fields = Fed(attempt=3, frame=1, places=b"").model_dump()
    with pytest.raises(PeerError, match="another program sending"):
        decode_message(encode({**fields, name: value}), 3)
