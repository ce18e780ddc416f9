"""Messages as msgpack maps."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.encoding import decode, encode
from common.messages.frame_envelope import Envelope


@given(st.binary(max_size=200))
def test_malformed_bytes_raise_a_sideways_error(data: bytes) -> None:
    with pytest.raises(PeerError):
        Envelope(data, 3, 1)


def test_maps_round_trip_and_anything_else_is_refused() -> None:
    assert decode(encode({"kind": "done", "stage": 3})) == {"kind": "done", "stage": 3}
    for message in ([1, 2], "text", {1: 2}):
        with pytest.raises(PeerError):
            decode(msgpack.packb(message))
