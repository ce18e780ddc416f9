"""Hosts and the links between them: network namespaces on this machine, and a program that forwards packets.

Each host has a TUN device. The program reads packets from one and writes them to that of the addressee, later or not at
all. So it simulates slow, narrow, lossy or cut links, and needs no kernel module but tun.
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

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_QUEUE = 0.5  # seconds of traffic that may wait for a narrow link
_DESTINATION = slice(16, 20)  # of an IPv4 packet


def address(host: int) -> str:
    """The address of a host."""
    return f"10.78.0.{host + 1}"


FIRST, SECOND = address(0), address(1)


class Network:
    """A running network. `names` are the namespaces of its hosts."""

    def __init__(self, names: list[str], program: "subprocess.Popen[bytes]") -> None:
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
def network(hosts: int, delay: float, loss: float = 0.0, rate: float = 0.0) -> Iterator[Network]:
    """Create linked namespaces. Needs root, iproute2 and the tun module.

    Args:
        delay: seconds from any host to any other.
        loss: the share of packets to drop, 0 to 1.
        rate: bytes per second that a host can send; 0: no limit.
    """
    names = [f"sw{os.getpid()}h{host}" for host in range(hosts)]
    devices = [f"sw{os.getpid() % 100000}h{host}" for host in range(hosts)]
    ends = [_tun(device) for device in devices]
    made: list[str] = []
    try:
        for host, (name, device) in enumerate(zip(names, devices, strict=True)):
            ip("netns", "add", name)
            made.append(name)
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
        arguments = [str(number) for number in (delay, loss, rate, *ends)]
        program = subprocess.Popen([sys.executable, "-m", "tests.faults.network", *arguments], pass_fds=ends)
        try:
            yield Network(names, program)
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


class _Wires:
    def __init__(self, ends: list[int], delay: float, loss: float, rate: float) -> None:
        self._to = {bytes(map(int, address(host).split("."))): end for host, end in enumerate(ends)}
        self._delay, self._loss, self._rate, self._random = delay, loss, rate, random.Random(1)
        self._idle_at = dict.fromkeys(ends, 0.0)  # when all that a host has sent will have left it
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
            for end in select.select(list(self._idle_at), [], [], wait)[0]:
                self._take(end)
            while self._under_way and self._under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._under_way)
                os.write(end, packet)

    def _take(self, end: int) -> None:
        packet = os.read(end, 65536)
        to = self._to.get(packet[_DESTINATION])
        if to is None or self._is_cut or self._random.random() < self._loss:
            return
        leaves = max(time.monotonic(), self._idle_at[end])
        if leaves > time.monotonic() + _QUEUE:
            return
        self._idle_at[end] = leaves + (len(packet) / self._rate if self._rate else 0.0)
        self._number += 1
        heapq.heappush(self._under_way, (self._idle_at[end] + self._delay, self._number, to, packet))


if __name__ == "__main__":
    slow, lossy, narrow, *files = sys.argv[1:]
    _Wires(list(map(int, files)), float(slow), float(lossy), float(narrow)).carry()
