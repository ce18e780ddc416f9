"""What the launcher imports can be forked. How the forks end: test_children.py."""

import subprocess
import sys


def test_nothing_that_is_imported_starts_a_thread_or_uses_a_gpu() -> None:
    """numpy's BLAS has threads of its own, and ends them before a fork."""
    code = """
import os, threading
import torch
def use(*_): raise AssertionError("a GPU is used")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = use
from coordinator.launch.forked import import_before_fork
import_before_fork()
if os.fork() == 0: os._exit(0)
os.wait()
print(threading.active_count(), len(os.listdir("/proc/self/task")), torch.cuda.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "1 1 False\n", done.stderr
