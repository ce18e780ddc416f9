"""A frame socket, as in stage 0, and a feeder for it, as in the coordinator."""

from collections.abc import Callable, Sequence

from common.config.settings import Network
from common.messages.stage_calls import Addresses
from common.processes.zmq_curve import CurveKeys
from coordinator.video.feeder import Feeder
from stage_worker.edges.frame_socket import FrameSocket
from tests.support import members


def frame_socket(
    shape: Sequence[int],
    attempt: int = 0,
    deadline: float = 5.0,
    shares_memory: bool = False,
    curve: CurveKeys | None = None,
) -> FrameSocket:
    """Stage 0's frame socket for batches of `shape`."""
    me = members.stage(attempt=attempt, curve=curve)
    return FrameSocket(me, Network(deadline=deadline, max_message=1 << 20), shape, 4, "stage 0", shares_memory)


def feeder_of(
    socket: FrameSocket,
    attempt: int = 0,
    deadline: float = 1.0,
    meanwhile: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda text: None,
    curve: CurveKeys | None = None,
    key: str = "",
) -> Feeder:
    """The coordinator's feeder for batches of 96 bytes. `key` is stage 0's public key."""
    me = members.coordinator(attempt=attempt, curve=curve, keys=key)
    return Feeder(me, [Addresses(socket.address, "", memory=socket.memory)], 96, deadline, meanwhile, warn)
