"""The memory allocator's settings, of a process of the run."""

import os
import sys

# by default glibc returns a tick's large tensors to the kernel and faults them in again at the next; read at start
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def use_allocator() -> None:
    """Start this program anew, unless it was started with the allocator's settings. Call it first: nothing is kept."""
    if not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**ALLOCATOR, **os.environ})  # noqa: S606
