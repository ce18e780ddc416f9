"""The control channel between the processes of a run: torch.distributed.rpc over TCP."""

import warnings

import torch.distributed as dist
from torch.distributed import rpc

from common.errors import PeerError
from common.processes.membership import JOIN_DEADLINE, Membership
from common.processes.names import reader_name, worker_name

COORDINATOR = "coordinator"


def start_rpc(me: Membership) -> None:
    """Open the control channel. Every process of the run must call it. Raises PeerError if it cannot be opened."""
    names = {"coordinator": COORDINATOR, "stage": worker_name(me.worker), "reader": reader_name(me.reader)}
    name = names[me.own.role]
    # TCP only: the shared-memory transport polls and does not notice a dead peer, and the GPU channels, which these
    # calls do not need, fail to start on some hosts with a GPU
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4,
        rpc_timeout=JOIN_DEADLINE,
        init_method="env://",
        _transports=["uv"],
        _channels=["basic"],
    )
    warnings.filterwarnings("ignore", "You are using a Backend", UserWarning)  # raised by torch itself, inside init_rpc
    try:
        rpc.init_rpc(name, rank=me.rank, world_size=len(me.members), rpc_backend_options=options)
    except (dist.DistError, RuntimeError) as error:
        raise PeerError(f"{name}: cannot open the control channel: {error}") from error
