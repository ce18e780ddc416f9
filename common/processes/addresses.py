"""By which address the other processes of a run reach this one, and over which interface."""

import os
import socket
from ipaddress import ip_address

import psutil

LOOPBACK = "127.0.0.1"
ADDRESS = "SIDEWAYS_ADDRESS"  # environment: overrides the guess


def own_address(master: str) -> str:
    """This host's address on the way to the launcher's, `master`; loopback where that is."""
    if given := os.environ.get(ADDRESS):
        return given
    if is_loopback(master):
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # sends nothing: it only asks for the route
        return str(probe.getsockname()[0])


def use_interface_of(address: str) -> None:
    """Have torch's own sockets listen there; left to themselves they take the address of the host's name."""
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("TP_SOCKET_IFNAME", name)


def is_loopback(address: str) -> bool:
    """Whether a name or an address is this host's own, for itself alone."""
    try:
        return ip_address(socket.gethostbyname(address)).is_loopback
    except (OSError, ValueError):
        return False
