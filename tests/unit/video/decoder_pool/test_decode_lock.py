"""The lock by which one process of a pair decodes at a time."""

import os
import select
import subprocess
import sys
from pathlib import Path

from coordinator.video.decoder_pool.decode_lock import DecodeLock


def test_the_lock_is_held_until_its_process_releases_it_or_dies(tmp_path: Path) -> None:
    file = os.open(tmp_path / "batons", os.O_RDWR | os.O_CREAT)
    hold = "import time; from coordinator.video.decoder_pool.decode_lock import DecodeLock; "
    hold += f"lock = DecodeLock({file}, 0); lock.__enter__(); "
    command = [sys.executable, "-c", hold + "print(flush=True); time.sleep(60)"]
    first = subprocess.Popen(command, pass_fds=[file], stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    assert DecodeLock(file, 0).holder() == first.pid
    with DecodeLock(file, 1):  # a lock of another pair
        assert DecodeLock(file, 0).holder() == first.pid
    second = subprocess.Popen(command, pass_fds=[file], stdout=subprocess.PIPE)
    assert second.stdout is not None
    assert not select.select([second.stdout], [], [], 2.0)[0], "it did not wait for its turn"
    first.kill()
    second.stdout.readline()
    assert DecodeLock(file, 0).holder() == second.pid
    second.kill()
    for process in (first, second):
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert DecodeLock(file, 0).holder() is None
    os.close(file)
