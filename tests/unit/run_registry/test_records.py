"""Records of a run: what is written reads back, and anything else is refused with a sentence."""

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.errors import SidewaysError
from common.run_registry.records import (
    Answer,
    Command,
    Owner,
    Status,
    decode,
    decode_line,
    encode_line,
    plain,
)
from tests.support.records import status_of


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_bytes_are_a_record_or_a_sentence(data: bytes) -> None:
    for kind in (Command, Status, Answer, Owner):
        with suppress(SidewaysError):
            decode(kind, data)
    with suppress(SidewaysError):
        assert isinstance(decode_line(data)["tick"], int)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_a_record_with_a_field_of_any_kind_is_one_or_a_sentence(value: Any) -> None:
    fields = json.loads(status_of().encode())
    for name in fields:
        with suppress(SidewaysError):
            found = decode(Status, json.dumps({**fields, name: value}).encode())
            assert found == decode(Status, found.encode())


@given(st.dictionaries(st.text(max_size=9), st.floats() | st.integers() | st.text(max_size=9) | st.none(), max_size=9))
def test_lines_keep_all_but_what_json_lacks(fields: dict[str, Any]) -> None:
    line = {**fields, "kind": "progress", "tick": 3, "losses": [1.0]}
    expected = {
        name: None if isinstance(value, float) and value - value != 0 else value
        for name, value in line.items()
        if name != "losses"
    }
    assert decode_line(encode_line(line)) == expected


@given(st.text())
def test_any_message_fits_a_record(text: str) -> None:
    assert decode(Status, status_of(message=plain(text)).encode()).message == plain(text)
