"""Copying a run's trace out of its directory."""

import socket
from pathlib import Path

import pytest

from common.errors import ConfigError, SidewaysError
from common.run_registry.records import Owner
from coordinator.trace import copy as tracecopy
from coordinator.trace.chrome_format import write
from tests.support.traces import FIRST, TICKS, check, read, recording


def test_a_trace_is_copied_compressed_or_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    owner = Owner(host=socket.gethostname(), directory=str(tmp_path / "run"), pid=1)
    with pytest.raises(SidewaysError, match="cannot be copied"):
        tracecopy.copy(owner, tmp_path / "a.json")
    write(recording(), tmp_path / "run" / "trace.json.gz")
    for name in ("a.json", "b.json.gz"):
        tracecopy.check(tmp_path / name)
        tracecopy.copy(owner, tmp_path / name)
        check(read(tmp_path / name), FIRST, TICKS)
    with pytest.raises(SidewaysError, match="the trace is on elsewhere"):
        tracecopy.copy(Owner(host="elsewhere", directory="/run", pid=1), tmp_path / "c.json")
    for wrong in ("a.txt", "none/a.json"):
        with pytest.raises(ConfigError, match="--out"):
            tracecopy.check(tmp_path / wrong)
