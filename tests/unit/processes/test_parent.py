"""A process ends with its parent even if it is stopped."""

import signal
import subprocess
import sys

import psutil

from common.processes.parent import die_with_parent
from tests.support.waiting import wait_until

CHILD = f"""
import os, sys, time
from {die_with_parent.__module__} import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid())])"


def test_a_stopped_process_is_killed_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        child.send_signal(signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_it_does_not_begin_where_the_parent_has_died_already() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "")
