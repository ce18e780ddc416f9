"""What a run needs of its host, looked at before anything is started."""

import socket
from contextlib import closing

from common.config.settings import Config
from common.errors import SidewaysError
from common.processes.addresses import LOOPBACK
from common.processes.lifecycle import allow_many_files

_ALWAYS, _A_STAGE = 64, 16  # open files of the coordinator: about 60 were counted with one stage, and 6 with each more


def check_host(config: Config) -> None:
    """Raises SidewaysError: too few files may be open, or there is no loopback interface."""
    allow_many_files(open_files(config))
    try:
        with closing(socket.create_server((LOOPBACK, 0))) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise SidewaysError(
            f"the processes of a run meet at {LOOPBACK}, which does not work here: {error}. Bring the loopback "
            f"interface up (ip link set lo up), or give the container a network"
        ) from error


def open_files(config: Config) -> int:
    """How many files one of the run's processes has open at most. A decoding process may have one for every slot."""
    return _ALWAYS + max(_A_STAGE * config.stages, config.data.slots)
