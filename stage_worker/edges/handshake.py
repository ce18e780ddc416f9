"""Before the first tick, both ends of an edge tell where they compute, and check that their tensors match."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from stage_worker.edges.links import Links, TensorSpec
from stage_worker.edges.torch_p2p import Peer

_TAG = 2
_LENGTH = 20  # int64: two halves of the GPU's UUID and whether there is one, dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
_HALF, _SIGN = 1 << 64, 1 << 63


class _Message(NamedTuple):
    spec: TensorSpec
    gpu: int | None


def agree(group: dist.ProcessGroup, links: Links, gpu: int | None, deadline: float) -> dict[int, int | None]:
    """Exchange specs and GPUs with all partners: on each edge both ends tell what they expect to pass.

    Args:
        group: a gloo group of all stages.
        gpu: UUID of the GPU that this stage computes on; None on the CPU.
        deadline: seconds to wait for a partner.

    Returns:
        The partners' GPUs, by stage.

    Raises:
        PeerError: the specs of an edge differ, or a partner does not answer. The message names both stages.
    """
    peers = {partner: Peer(group, links.stage, partner, deadline, _TAG) for partner in links.partners}
    sent = {partner: _encode(_Message(spec, gpu)) for partner, spec in links.partners.items()}
    received = {partner: torch.zeros(_LENGTH, dtype=torch.int64) for partner in peers}
    works = [(peer, peer.receive(received[partner], 0)) for partner, peer in peers.items()]
    works += [(peer, peer.send(sent[partner], 0)) for partner, peer in peers.items()]
    for peer, work in works:
        peer.wait(work, 0, "agreeing on shapes with")
    messages = {partner: _decode(received[partner].tolist()) for partner in peers}
    for partner, message in messages.items():
        _compare(links.stage, links.partners[partner], partner, message.spec)
    return {partner: message.gpu for partner, message in messages.items()}


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
