"""When a stop during the preparation ends the coordinator at once. The rest: tests/faults/test_stops.py."""

from pathlib import Path

import pytest

from coordinator.launch.attempt import LAUNCH, RESTARTS
from coordinator.run.process import _may_go_on_from_memory
from tests.support.settings import config_of


@pytest.mark.parametrize(
    ("variables", "every", "resume", "expected"),
    [
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, 20, True, True),  # restarted by torchrun
        ({LAUNCH: "nightly"}, 20, True, True),  # a restarted container
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, 20, True, False),  # the user resumes a run
        ({LAUNCH: "mine", RESTARTS: "0"}, 20, True, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, None, True, False),  # no snapshots are kept
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, 20, False, False),  # the first attempt did not get so far
    ],
)
def test_only_what_may_be_in_memory_is_saved_before_a_stop_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    every: int | None,
    resume: bool,
    expected: bool,
) -> None:
    for name in (LAUNCH, RESTARTS, "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = config_of(tmp_path, **({} if every is None else {"recovery__snapshot_every": every}))
    assert _may_go_on_from_memory(config, tmp_path if resume else None) == expected
