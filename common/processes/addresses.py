"""The address at which other processes of a run reach this one, and the network interface for it."""

import os
import socket
from ipaddress import ip_address

import psutil

LOOPBACK = "127.0.0.1"
ADDRESS = "SIDEWAYS_ADDRESS"  # environment: overrides the detected address


def own_address(master: str) -> str:
    """This host's address on the route to the launcher's address, `master`; loopback if `master` is loopback."""
    if given := os.environ.get(ADDRESS):
        return given
    if is_loopback(master):
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # sends nothing: a UDP connect only looks up the route
        return str(probe.getsockname()[0])


def use_interface_of(address: str) -> None:
    """Make the sockets of torch and NCCL use this address. By default torch's use that of the hostname."""
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("TP_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # exactly this one; else NCCL picks its own


def is_loopback(address: str) -> bool:
    """Whether a hostname or address is loopback."""
    try:
        return ip_address(socket.gethostbyname(address)).is_loopback
    except (OSError, ValueError):
        return False
