"""Two hosts and a link between them: network namespaces on this machine, and a program that forwards packets.

The program reads packets from one TUN device and writes them to the other, later or not at all. So it simulates a slow,
lossy or cut link, and needs no kernel module but tun.
"""

import fcntl
import heapq
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FIRST, SECOND = "10.78.0.1", "10.78.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Line:
    """A running link. `names` are its two namespaces."""

    def __init__(self, names: tuple[str, str], program: "subprocess.Popen[bytes]") -> None:
        self.names, self._program = names, program

    def cut(self, seconds: float) -> None:
        """Drop all packets for `seconds` seconds."""
        self._program.send_signal(signal.SIGUSR1)
        time.sleep(seconds)
        self._program.send_signal(signal.SIGUSR2)


def ip(*arguments: str) -> None:
    """Run `ip` of iproute2."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def line(delay: float, loss: float) -> Iterator[Line]:
    """Create two linked namespaces with the addresses FIRST and SECOND. Needs root, iproute2 and the tun module.

    Args:
        delay: Seconds in each direction.
        loss: The share of packets to drop, 0 to 1.
    """
    names = f"sw{os.getpid()}c", f"sw{os.getpid()}d"
    devices = f"sw{os.getpid() % 100000}c", f"sw{os.getpid() % 100000}d"
    ends = [_tun(device) for device in devices]
    made: list[str] = []
    try:
        for name, device, own, other in zip(names, devices, (FIRST, SECOND), (SECOND, FIRST), strict=True):
            ip("netns", "add", name)
            made.append(name)
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", own, "peer", other, "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        arguments = [str(number) for number in (*ends, delay, loss)]
        program = subprocess.Popen([sys.executable, "-m", "tests.faults.network", *arguments], pass_fds=ends)
        try:
            yield Line(names, program)
        finally:
            program.kill()
            program.wait()
    finally:
        for end in ends:
            os.close(end)
        for name in made:
            ip("netns", "del", name)


def _tun(device: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


class _Wire:
    def __init__(self, ends: tuple[int, int], delay: float, loss: float) -> None:
        self._to = {ends[0]: ends[1], ends[1]: ends[0]}
        self._delay, self._loss, self._random = delay, loss, random.Random(1)
        self._under_way: list[tuple[float, int, int, bytes]] = []  # due time, number, destination, packet
        self._number = 0
        self._is_cut = False
        signal.signal(signal.SIGUSR1, self._cut)
        signal.signal(signal.SIGUSR2, self._join)

    def _cut(self, number: int, frame: FrameType | None) -> None:
        self._is_cut = True

    def _join(self, number: int, frame: FrameType | None) -> None:
        self._is_cut = False

    def carry(self) -> None:
        while True:
            wait = max(0.0, self._under_way[0][0] - time.monotonic()) if self._under_way else None
            for end in select.select(list(self._to), [], [], wait)[0]:
                self._take(end)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._under_way)
                os.write(end, packet)

    def _take(self, end: int) -> None:
        packet = os.read(end, 65536)
        if not self._is_cut and self._random.random() >= self._loss:
            self._number += 1
            heapq.heappush(self._under_way, (time.monotonic() + self._delay, self._number, self._to[end], packet))


if __name__ == "__main__":
    _Wire((int(sys.argv[1]), int(sys.argv[2])), float(sys.argv[3]), float(sys.argv[4])).carry()
