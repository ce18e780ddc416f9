"""What a run tells the Python process that started it."""

from pathlib import Path

import pytest

from common.errors import DataError
from common.processes import caller
from common.processes.output import print_error


def test_a_caller_reads_what_the_run_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    print_error("nobody listens")
    monkeypatch.setenv(caller.CALLER, str(tmp_path))
    assert caller.read_directory(tmp_path) is None
    caller.write_directory(Path("runs/it"))
    assert caller.read_directory(tmp_path) == Path("runs/it").absolute()
    print_error("of the first attempt")
    caller.clear_errors()
    assert caller.read_errors(tmp_path) == []
    print_error(DataError("no videos\nat all"))
    print_error("stage 0 ended")
    assert caller.read_errors(tmp_path) == [("DataError", "no videos\nat all"), ("", "stage 0 ended")]
