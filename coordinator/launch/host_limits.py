"""Checks of the host, before any process of a run starts."""

import socket
from contextlib import closing

from common.config.settings import Config
from common.errors import SidewaysError
from common.processes.addresses import LOOPBACK
from common.processes.open_files import allow_many_files
from coordinator.video.cache import KEPT

_ALWAYS, _A_STAGE = 64, 16  # open files of the coordinator: about 60 measured with one stage, 6 per further stage


def check_host(config: Config) -> None:
    """Raise SidewaysError if the limit of open files is too low, or the loopback interface does not work."""
    allow_many_files(open_files(config))
    try:
        with closing(socket.create_server((LOOPBACK, 0))) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise SidewaysError(
            f"the processes of a run connect over {LOOPBACK}, which does not work here: {error}. Bring the loopback "
            f"interface up (ip link set lo up), or give the container a network"
        ) from error


def open_files(config: Config) -> int:
    """The maximum number of files that a process of the run opens.

    A decoder process may open one for each slot, and with a cache another to write to, and those that stay mapped.
    """
    decoding = 2 * config.data.slots + KEPT if config.data.cache else config.data.slots
    return _ALWAYS + max(_A_STAGE * config.total_stages, decoding)
