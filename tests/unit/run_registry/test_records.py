"""Records of a run: they round-trip, and anything else raises a SidewaysError."""

import json
from contextlib import suppress
from typing import Any

from annotated_types import MaxLen
from hypothesis import given
from hypothesis import strategies as st

from common.config.settings import Config
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
from coordinator.monitor.val_metrics import MOST
from tests.support.records import status_of


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_bytes_decode_to_a_record_or_raise_a_sideways_error(data: bytes) -> None:
    for kind in (Command, Status, Answer, Owner):
        with suppress(SidewaysError):
            decode(kind, data)
    with suppress(SidewaysError):
        assert isinstance(decode_line(data)["tick"], int)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_a_field_of_any_type_decodes_or_raises_a_sideways_error(value: Any) -> None:
    fields = json.loads(status_of().encode())
    for name in fields:
        with suppress(SidewaysError):
            found = decode(Status, json.dumps({**fields, name: value}).encode())
            assert found == decode(Status, found.encode())


@given(st.dictionaries(st.text(max_size=9), st.floats() | st.integers() | st.text(max_size=9) | st.none(), max_size=9))
def test_lines_round_trip_with_non_finite_numbers_as_null(fields: dict[str, Any]) -> None:
    line = {**fields, "kind": "progress", "tick": 3, "losses": [1.0]}
    expected = {
        name: None if isinstance(value, float) and value - value != 0 else value
        for name, value in line.items()
        if name != "losses"
    }
    assert decode_line(encode_line(line)) == expected


@given(st.text())
def test_any_text_fits_a_record(text: str) -> None:
    assert decode(Status, status_of(message=plain(text)).encode()).message == plain(text)


def test_a_status_holds_as_many_figures_as_evaluations_may_have() -> None:
    metrics = Config.model_fields["val_metrics"].metadata
    most = next(limit.max_length for limit in metrics if isinstance(limit, MaxLen)) * MOST + 20  # and our own
    evaluation = {f"{'x' * 76}{number:04}": 0.123456789 for number in range(most)}
    status = status_of(evaluation=evaluation)
    assert decode(Status, status.encode()) == status
    line = {"kind": "evaluation", "tick": 3, **evaluation}
    assert decode_line(encode_line(line)) == line
