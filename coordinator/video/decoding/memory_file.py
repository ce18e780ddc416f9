"""Bytes of a video file as a file in memory, which FFmpeg opens, and opens again to seek, as any other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_64_intdigest

from common.shared_memory.memfd import memory_file


@contextmanager
def opened_bytes(content: bytes | bytearray | memoryview) -> Iterator[Path]:
    """The path of such a file while the context lasts. Raises OSError.

    Its time of modification is a digest of its content, as files are told apart by path, time and size.
    """
    file = memory_file("sideways-video", 0)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(content)
        os.utime(file, ns=(0, xxh3_64_intdigest(content) >> 2))
        yield Path(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
