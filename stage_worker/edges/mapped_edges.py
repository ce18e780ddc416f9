"""The edges of a stage in memory that both ends map: shared memory on the CPU, CUDA IPC on GPUs.

Every process offers all of its edges before it accepts any, so that no two stages wait for each other.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch

from common.shared_memory.fd_passing import FdConnection
from stage_worker.edges import device_memory, shared_memory
from stage_worker.edges.device_memory import DeviceOutgoing, Ipc
from stage_worker.edges.links import EdgeEnd, EdgeKey
from stage_worker.edges.shared_memory import SharedIncoming, SharedOutgoing


class MappedEdges:
    """The ends that are connected so far.

    Attributes:
        outgoing, incoming: by kind and the stage at the other end.
    """

    def __init__(
        self,
        ends: Mapping[EdgeKey, EdgeEnd],
        outgoing: Sequence[EdgeKey],
        incoming: Sequence[EdgeKey],
        connections: Mapping[tuple[int, int], FdConnection],
        device: torch.device,
        same_gpu: Sequence[int],
    ) -> None:
        """Connect nothing yet.

        Args:
            ends: this stage's end of each edge.
            outgoing, incoming: the edges over which it sends, and those over which it receives.
            connections: to the other stages, by this stage and the other.
            device: on which the stage computes.
            same_gpu: the stages on the same GPU.
        """
        self._ends, self._to, self._of, self._connections = ends, outgoing, incoming, connections
        self._device, self._same_gpu, self._ipc = device, same_gpu, ipc_of(device)
        self.outgoing: dict[EdgeKey, SharedOutgoing] = {}
        self.incoming: dict[EdgeKey, SharedIncoming] = {}

    def offer(self) -> None:
        """Offer the edges over which this stage sends. Raises PeerError if a partner is gone."""
        for key, end, connection in self._each(self._to):
            if self._ipc is None:
                self.outgoing[key] = shared_memory.offer_edge(connection, end)
                continue
            offered = device_memory.offer_edge(connection, end, self._device, self._ipc)
            if isinstance(offered, str):
                _warn(end, offered)
            else:
                self.outgoing[key] = offered

    def accept(self) -> None:
        """Accept the edges over which this stage receives. Raises PeerError if a partner does not answer."""
        for key, end, connection in self._each(self._of):
            if self._ipc is None:
                self.incoming[key] = shared_memory.accept_edge(connection, end)
                continue
            copy_to = None if end.neighbour in self._same_gpu else self._device
            accepted = device_memory.accept_edge(connection, end, self._ipc, copy_to)
            if isinstance(accepted, str):
                _warn(end, accepted)
            else:
                self.incoming[key] = accepted

    def complete(self) -> None:
        """Take the partners' answers to the offers. Raises PeerError if one does not answer."""
        for key, end, connection in self._each(self._to):
            outgoing = self.outgoing.get(key)
            if self._ipc is None or not isinstance(outgoing, DeviceOutgoing):
                continue
            problem = outgoing.complete(connection, end.name, self._ipc)
            if problem is not None:
                self.outgoing.pop(key).close()
                _warn(end, problem)

    def close(self) -> None:
        """Close the connections."""
        for end in (*self.outgoing.values(), *self.incoming.values()):
            end.close()

    def _each(self, keys: Sequence[EdgeKey]) -> Iterator[tuple[EdgeKey, EdgeEnd, FdConnection]]:
        for key in keys:
            end = self._ends[key]
            yield key, end, self._connections[end.stage, end.neighbour]


def ipc_of(device: torch.device) -> Ipc | None:
    """How GPU memory is shared; None on the CPU."""
    if device.type != "cuda":
        return None
    from stage_worker.edges.cuda_ipc import CudaIpc

    return CudaIpc(device)


def _warn(end: EdgeEnd, problem: str) -> None:
    """An edge is left to gloo, which works everywhere."""
    warnings.warn(
        f"stages {end.stage} and {end.neighbour} cannot share GPU memory ({problem}): tensors go through host "
        "memory, which is slower. In containers, one container with all GPUs of the host avoids this",
        stacklevel=2,
    )
