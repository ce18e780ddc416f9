"""A stage worker exits when its coordinator is gone, with an error unless the coordinator has announced its exit."""

import subprocess
import sys

import pytest
import zmq

from tests.support.processes import environment

STAGE = """
import sys, time
from stage_worker.reporting.reporter import Reporter
from stage_worker.worker import Worker
from tests.support import members

me = members.stage()
reporter = Reporter(me, sys.argv[1])
worker = Worker(me, [reporter])
reporter.stop_signal = 15
reporter.tell_signal()
if sys.argv[2] == "announced":
    worker.handle("expect_coordinator_exit", [0], (), {})
if sys.argv[2] == "elsewhere":
    reporter.coordinator._coordinators_host = "10.0.0.1"
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["announced", "unexpected", "elsewhere"])
def test_a_stage_exits_when_its_coordinator_is_gone(how: str) -> None:
    coordinator: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
    port = coordinator.bind_to_random_port("tcp://127.0.0.1")
    command = [sys.executable, "-c", STAGE, f"tcp://127.0.0.1:{port}", how]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert stage.stdout is not None
    assert stage.stdout.readline() == "ready\n"
    coordinator.recv()
    coordinator.close(0)
    _, errors = stage.communicate(timeout=20)  # well before the launcher, which would have to kill it
    assert stage.returncode == 3
    assert ("the coordinator is gone" in errors) == (how != "announced")
    assert ("If its host, 10.0.0.1, is lost for good" in errors) == (how == "elsewhere")
