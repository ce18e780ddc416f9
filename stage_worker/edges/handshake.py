"""Before the first tick, both ends of an edge tell where they compute, and check that their tensors match."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from common.models.shapes import TensorSpec
from stage_worker.edges.links import Links
from stage_worker.edges.torch_p2p import Peer, tag_of

_TAG = 2
_LENGTH = 20  # int64: two halves of the GPU's UUID and whether there is one, dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
_HALF, _SIGN = 1 << 64, 1 << 63


class _Message(NamedTuple):
    spec: TensorSpec
    gpu: int | None


def agree(
    group: dist.ProcessGroup, held: Sequence[Links], gpu: int | None, deadline: float, rank: Callable[[int], int]
) -> dict[int, int | None]:
    """Exchange specs and GPUs with other workers: on each edge both ends tell what they expect to pass.

    Args:
        group: a gloo group of all workers.
        held: the links of the stages that this worker holds.
        gpu: UUID of the GPU that this worker computes on; None on the CPU.
        deadline: seconds to wait for a partner.
        rank: of the worker that holds a stage.

    Returns:
        The GPUs of these stages and their partners, by stage.

    Raises:
        PeerError: the specs of an edge differ, or a partner does not answer. The message names both stages.
    """
    own = {links.stage for links in held}
    edges = {(links.stage, other): spec for links in held for other, spec in links.partners.items() if other not in own}
    peers = {edge: Peer(group, *edge, deadline, tag_of(_TAG, edge), rank(edge[1])) for edge in edges}
    sent = {edge: _encode(_Message(spec, gpu)) for edge, spec in edges.items()}
    received = {edge: torch.zeros(_LENGTH, dtype=torch.int64) for edge in edges}
    works = [(peer, peer.receive(received[edge], 0)) for edge, peer in peers.items()]
    works += [(peer, peer.send(sent[edge], 0)) for edge, peer in peers.items()]
    for peer, work in works:
        peer.wait(work, 0, "agreeing on shapes with")
    messages = {edge: _decode(received[edge].tolist()) for edge in edges}
    for (stage, partner), message in messages.items():
        _compare(stage, edges[stage, partner], partner, message.spec)
    return dict.fromkeys(own, gpu) | {partner: message.gpu for (_, partner), message in messages.items()}


def _compare(stage: int, own: TensorSpec, partner: int, other: TensorSpec) -> None:
    if own == other:
        return
    (lower, sent), (upper, expected) = sorted(((stage, own), (partner, other)), key=lambda end: end[0])
    raise PeerError(
        f"stage {lower} outputs {_text(sent)} but stage {upper} expects {_text(expected)}: "
        f"do both hosts have the same model file and the same versions?"
    )


def _encode(message: _Message) -> Tensor:
    (shape, dtype), gpu = message
    high, low = divmod(gpu or 0, _HALF)
    values = [high - _SIGN, low - _SIGN, int(gpu is not None), _DTYPES.index(dtype), len(shape), *shape]
    return torch.tensor(values + [0] * (_LENGTH - len(values)))


def _decode(values: list[int]) -> _Message:
    high, low, on_gpu, dtype, dimensions, *sizes = values
    gpu = (high + _SIGN) * _HALF + low + _SIGN if on_gpu else None
    return _Message((torch.Size(sizes[:dimensions]), _DTYPES[dtype]), gpu)


def _text(spec: TensorSpec) -> str:
    return f"{list(spec[0])} of {str(spec[1]).removeprefix('torch.')}"
