"""Errors of a run, as `sideways.train` raises them."""

import pytest

from common.errors import ConfigError, DataError, PeerError, SidewaysError
from coordinator.python.train import _error


@pytest.mark.parametrize(
    ("told", "code", "kind", "message"),
    [
        ([("DataError", "no videos"), ("", "stage 0: no videos\ntraceback")], 1, DataError, "no videos"),
        ([("OtherAttemptError", "of another attempt")], 3, PeerError, "of another attempt"),
        ([("", "unknown setting"), ("", "stage 1 ended")], 2, ConfigError, "unknown setting\nstage 1 ended"),
        ([], -9, SidewaysError, "the run ended with exit code -9, see its output"),
    ],
)
def test_an_error_is_that_of_the_run(
    told: list[tuple[str, str]], code: int, kind: type[SidewaysError], message: str
) -> None:
    error = _error(told, code)
    assert (type(error), str(error)) == (kind, message)
