"""What a process of the run sets before it imports torch or starts threads."""

import os
import sys


def quiet_torch() -> None:
    """Keep torch from warning about every peer that exits. Call it before torch is imported."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def shorten_thread_switches() -> None:
    """Set the interpreter's thread switch interval to 0.5 ms, a tenth of the default.

    Threads that decode live sources return from FFmpeg thousands of times a second. Each time they may have to wait
    that long for the GIL.
    """
    sys.setswitchinterval(0.0005)
