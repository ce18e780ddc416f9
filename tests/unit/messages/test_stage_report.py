"""Reports of stages: they round-trip, and malformed ones are refused."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import PeerError
from common.messages.encoding import OtherAttemptError, encode
from common.messages.stage_report import Done, Failed, Progress, Report, Signalled, decode_report, encode_report

PROGRESS = {
    **dict.fromkeys(["attempt", "stage", "dropped", "tick", "rows", "gated", "peak_memory_bytes"], 0),
    **dict.fromkeys(["bytes_forward", "bytes_backward"], 0),
    **dict.fromkeys(["compute_seconds", "receive_wait_seconds", "send_wait_seconds", "data_wait_seconds"], 0.0),
    "kind": "progress",
    "ticks": 1,
    "seconds": 0.1,
    "gradient_norm": None,
    "rate": 1e-3,
}
LOSS = {"loss": 0.5, "counted": 12, "correct": 2, "losses": [0.5] * 3}
NUMBERS = {"rate", "gradient_norm", *(name for name in PROGRESS if name.endswith("wait_seconds") or "compute" in name)}


def decoded(fields: dict[str, object]) -> object:
    return decode_report(encode(fields), stages=1, attempt=0)


def test_a_report_round_trips() -> None:
    sender: dict[str, Any] = {"attempt": 0, "stage": 0, "dropped": 2}
    reports: list[Report] = [Done(**sender), Failed(**sender, message="why", code=3), Signalled(**sender, signal=15)]
    for report in (*reports, Progress.model_validate(PROGRESS), Progress.model_validate({**PROGRESS, **LOSS})):
        assert decode_report(encode_report(report), stages=1, attempt=0) == report


@given(
    st.sampled_from(sorted(PROGRESS)),
    st.text() | st.integers(-(2**63), -1) | st.binary() | st.lists(st.booleans()) | st.booleans(),
)
def test_a_malformed_report_is_refused(name: str, value: object) -> None:
    assume(type(value) is not int or name not in NUMBERS)
    assume(name != "attempt" or type(value) is not int)  # that one is of another attempt
    with pytest.raises(PeerError, match="another program sending"):
        decoded({**PROGRESS, name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 1}, "received a report of stage 1, but there are 1"),
        ({"loss": 0.5}, "loss and counted must be set together"),
        ({"bytes": 3}, "Extra inputs are not permitted"),
        ({"kind": "gossip"}, "malformed"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_report(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PeerError, match=message):
        decoded({**PROGRESS, **changes})


def test_a_report_of_another_attempt_is_recognised() -> None:
    with pytest.raises(OtherAttemptError):
        decoded({**PROGRESS, "attempt": 7, "stage": 5})
