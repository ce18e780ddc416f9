"""How long a packet takes over the link to a neighbour: the time of a round trip, halved.

A stage sends a message of an edge's size, and its neighbour sends one as large back, as in training. On even edges
first and then on odd ones, so that a stage measures with one neighbour at a time.
"""

import time

import torch
import torch.distributed as dist

from common.messages.stage_calls import BUILDING
from stage_worker.edges.torch_p2p import Peer

_TAG = 3
_ROUNDS = 6  # of which the first opens the connection


def measure_delays(group: dist.ProcessGroup, stage: int, stages: int, sizes: list[int], deadline: float) -> float:
    """Measure the link to the stage above. Every stage must call it.

    Args:
        group: a gloo group of all stages.
        sizes: bytes of a packet on each edge, from the bottom; 0 for an edge that is not to be measured.
        deadline: of each wait, in seconds.

    Returns:
        The longest one-way time of a message, in seconds; 0 for the top stage and for an edge without a size.

    Raises:
        PeerError: a neighbour does not answer.
    """
    longest = 0.0
    for parity in (0, 1):
        if stage % 2 == parity and stage < stages - 1 and sizes[stage]:
            longest = _ask(Peer(group, stage, stage + 1, deadline + BUILDING, _TAG), sizes[stage])
        elif stage % 2 != parity and stage and sizes[stage - 1]:
            _answer(Peer(group, stage, stage - 1, deadline + BUILDING, _TAG), sizes[stage - 1])
    return longest


def _ask(peer: Peer, size: int) -> float:
    """The longest of the one-way times, in seconds."""
    sent, received = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))
    times = []
    for _ in range(_ROUNDS):
        answer = peer.receive(received, 0)
        start = time.perf_counter()
        asked = peer.send(sent, 0)
        peer.wait(answer, 0, "measuring the link to")
        peer.wait(asked, 0, "measuring the link to")
        times.append((time.perf_counter() - start) / 2)
    return max(times[1:])


def _answer(peer: Peer, size: int) -> None:
    answer, *buffers = [torch.zeros(size, dtype=torch.uint8) for _ in range(_ROUNDS + 1)]
    asked = [peer.receive(buffer, 0) for buffer in buffers]  # posted ahead, as in training
    for work in asked:
        peer.wait(work, 0, "measuring the link to")
        peer.wait(peer.send(answer, 0), 0, "measuring the link to")
