"""A stage worker ends with its coordinator; it says so, unless the coordinator has told why the run ends."""

import subprocess
import sys

import pytest
import zmq

from tests.support.processes import environment

STAGE = """
import sys, time
from stage_worker.reporting.reporter import Reporter
from stage_worker.service import StageService
from tests.support import members

me = members.stage()
service = StageService(me, Reporter(me, sys.argv[1]))
service.reporter.stop_signal = 15
service.reporter.tell_signal()
if sys.argv[2] == "told":
    service.handle("expect_coordinator_exit")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["told", "not told"])
def test_a_stage_ends_with_its_coordinator(how: str) -> None:
    coordinator: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    port = coordinator.bind_to_random_port("tcp://127.0.0.1")
    command = [sys.executable, "-c", STAGE, f"tcp://127.0.0.1:{port}", how]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert stage.stdout is not None
    assert stage.stdout.readline() == "ready\n"
    coordinator.recv()
    coordinator.close(0)
    _, told = stage.communicate(timeout=20)  # well before the launcher, which would have to kill it
    assert stage.returncode == 3
    assert ("the coordinator is gone" in told) == (how != "told")
