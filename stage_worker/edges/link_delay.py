"""How long packets take over the link to a neighbour, those that are delayed by losses and jitter included.

A stage sends messages of an edge's size, and its neighbour sends one as large back for each, as in training: first a
few one after another, then many at the pace of the ticks. On even edges first and then on odd ones, so that a stage
measures with one neighbour at a time.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median, quantiles

import torch
import torch.distributed as dist
from torch import Tensor

from common.messages.stage_calls import BUILDING
from stage_worker.edges.torch_p2p import Peer

_TAG = 3
_SINGLE, _PACED = 6, 80  # messages; the first opens the connection
_WARM = 20  # of the paced ones, until TCP's window has opened
_LONGEST_PACE = 0.1  # seconds
_MOST_IN_FLIGHT = 10  # messages within a round trip: more of them would need longer than 20 to open the window
_MOST = 4.0  # times the delay of a single message: more means that the link cannot carry a packet a tick
_DOING = "measuring the link to"


def measure_delays(
    group: dist.ProcessGroup, stage: int, stages: int, sizes: list[int], pace: float, deadline: float
) -> float:
    """Measure the link to the stage above. Every stage must call it.

    Args:
        group: a gloo group of all stages.
        sizes: bytes of a packet on each edge, from the bottom; 0 for an edge that is not to be measured.
        pace: seconds of a tick.
        deadline: of each wait, in seconds.

    Returns:
        The time in seconds that 19 of 20 messages take one way at most; 0 for the top stage and for an edge without a
        size.

    Raises:
        PeerError: a neighbour does not answer.
    """
    found = 0.0
    for parity in (0, 1):
        if stage % 2 == parity and stage < stages - 1 and sizes[stage]:
            found = _ask(Peer(group, stage, stage + 1, deadline + BUILDING, _TAG), sizes[stage], pace)
        elif stage % 2 != parity and stage and sizes[stage - 1]:
            _answer(Peer(group, stage, stage - 1, deadline + BUILDING, _TAG), sizes[stage - 1])
    return found


def _ask(peer: Peer, size: int, pace: float) -> float:
    sent, received = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))
    single = median(_round_trip(peer, sent, received) for _ in range(_SINGLE)) / 2
    slow_enough = max(pace, 2 * single / _MOST_IN_FLIGHT)
    trips = _paced_round_trips(peer, sent, received, min(slow_enough, _LONGEST_PACE))
    return min(_MOST * single, max(single, one_way(trips[_WARM:])))


def one_way(trips: list[float]) -> float:
    """The time that 19 of 20 messages take one way at most, given round trips: the way back is taken as undisturbed."""
    return quantiles(trips, n=20)[-1] - min(trips) / 2


def _round_trip(peer: Peer, sent: Tensor, received: Tensor) -> float:
    answer = peer.receive(received, 0)
    start = time.perf_counter()
    asked = peer.send(sent, 0)
    peer.wait(answer, 0, _DOING)
    peer.wait(asked, 0, _DOING)
    return time.perf_counter() - start


def _paced_round_trips(peer: Peer, sent: Tensor, received: Tensor, pace: float) -> list[float]:
    """Round trips of messages sent `pace` seconds apart: one that is lost delays those behind it, as in training."""
    answers = [peer.receive(received, 0) for _ in range(_PACED)]  # what they hold does not matter

    def wait() -> list[float]:  # gloo does not tell that a transfer is done unless it is waited for
        return [_ended(peer, answer) for answer in answers]

    with ThreadPoolExecutor(1, "link-delay") as pool:
        ended = pool.submit(wait)
        started, asked = _send(peer, sent, pace)
        trips = [end - start for start, end in zip(started, ended.result(), strict=True)]
    for work in asked:
        peer.wait(work, 0, _DOING)
    return trips


def _ended(peer: Peer, work: dist.Work) -> float:
    peer.wait(work, 0, _DOING)
    return time.perf_counter()


def _send(peer: Peer, sent: Tensor, pace: float) -> tuple[list[float], list[dist.Work]]:
    """Send the messages. Returns when each was sent, and the transfers."""
    started, asked = [], []
    for number in range(_PACED):
        started.append(time.perf_counter())
        asked.append(peer.send(sent, 0))
        time.sleep(max(0.0, started[0] + (number + 1) * pace - time.perf_counter()))
    return started, asked


def _answer(peer: Peer, size: int) -> None:
    answer, received = (torch.zeros(size, dtype=torch.uint8) for _ in range(2))
    asked = [peer.receive(received, 0) for _ in range(_SINGLE + _PACED)]  # posted ahead, as in training
    sent = []
    for work in asked:
        peer.wait(work, 0, _DOING)
        sent.append(peer.send(answer, 0))
    for work in sent:
        peer.wait(work, 0, _DOING)
