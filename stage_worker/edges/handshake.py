"""Neighbours agree on what passes between them, before the first tick."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from stage_worker.edges.torch_p2p import Peer

TensorSpec = tuple[torch.Size, torch.dtype]  # of what an edge carries


def agree(
    group: dist.ProcessGroup, stage: int, stages: int, takes: TensorSpec, gives: TensorSpec, deadline: float
) -> None:
    """Compare with both neighbours what passes between them, before the first tick.

    `takes` and `gives` are the forms of this stage's input and output; `gives` goes up and `takes` down, the ways that
    activations and gradients go. Raises PeerError naming both stages where the shapes or dtypes of an edge differ, or
    where a neighbour does not answer.
    """
    peers = Peers(group, stage, stages, deadline)
    given = _exchange(peers, gives, to=stage + 1, of=stage - 1)
    taken = _exchange(peers, takes, to=stage - 1, of=stage + 1)
    for below, above, gift, wish in ((stage - 1, stage, given, takes), (stage, stage + 1, gives, taken)):
        if gift is not None and wish is not None and below >= 0 and above < stages and gift != wish:
            raise PeerError(
                f"stage {below} gives {_text(gift)} but stage {above} takes {_text(wish)}: "
                f"do both hosts have the same model file and the same versions?"
            )


@dataclass(frozen=True)
class Peers:
    """The neighbours of a stage in one group."""

    group: dist.ProcessGroup
    stage: int
    stages: int
    deadline: float


def _exchange(peers: Peers, own: TensorSpec, to: int, of: int) -> TensorSpec | None:
    """Tell the neighbour `to` a form, and hear one from `of`, where there are such neighbours."""
    device = torch.device("cuda") if dist.get_backend(peers.group) == "nccl" else torch.device("cpu")
    heard, told = torch.zeros(_DESCRIPTION, dtype=torch.int64, device=device), _describe(own).to(device)
    below_or_above = {
        neighbour: Peer(peers.group, peers.stage, neighbour, peers.deadline, _AGREEING)
        for neighbour in (of, to)
        if 0 <= neighbour < peers.stages
    }
    works = []
    if of in below_or_above:
        works.append((of, below_or_above[of].receive(heard, 0)))
    if to in below_or_above:
        works.append((to, below_or_above[to].send(told, 0)))
    for neighbour, work in works:
        below_or_above[neighbour].wait(work, 0, "agreeing on shapes with")
    return _form(heard.tolist()) if 0 <= of < peers.stages else None


_AGREEING = 2  # tag
_DESCRIPTION = 16  # int64: dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _describe(form: TensorSpec) -> Tensor:
    shape, dtype = form
    values = [_DTYPES.index(dtype), len(shape), *shape]
    return torch.tensor(values + [0] * (_DESCRIPTION - len(values)))


def _form(description: list[int]) -> TensorSpec:
    kind, dimensions, *sizes = description
    return torch.Size(sizes[:dimensions]), _DTYPES[kind]


def _text(form: TensorSpec) -> str:
    return f"{list(form[0])} of {str(form[1]).removeprefix('torch.')}"
