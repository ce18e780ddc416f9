"""Before the first tick, neighbours check that they agree on the shape and dtype of the tensors between them."""

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from stage_worker.edges.torch_p2p import Peer

TensorSpec = tuple[torch.Size, torch.dtype]

_TAG = 2
_LENGTH = 16  # int64: dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def agree(
    group: dist.ProcessGroup, stage: int, stages: int, inputs: TensorSpec, outputs: TensorSpec, deadline: float
) -> None:
    """Compare specs with both neighbours: each stage sends its output's up and its input's down.

    Args:
        inputs, outputs: specs of this stage's input and output.
        deadline: seconds to wait for a neighbour.

    Raises:
        PeerError: the specs of an edge differ, or a neighbour does not answer. The message names both stages.
    """
    neighbours = {n: Peer(group, stage, n, deadline, _TAG) for n in (stage - 1, stage + 1) if 0 <= n < stages}
    below = _exchange(group, neighbours, outputs, to=stage + 1, of=stage - 1)
    above = _exchange(group, neighbours, inputs, to=stage - 1, of=stage + 1)
    for lower, sent, expected in ((stage - 1, below, inputs), (stage, outputs, above)):
        if sent is not None and expected is not None and sent != expected:
            raise PeerError(
                f"stage {lower} outputs {_text(sent)} but stage {lower + 1} expects {_text(expected)}: "
                f"do both hosts have the same model file and the same versions?"
            )


def _exchange(
    group: dist.ProcessGroup, neighbours: dict[int, Peer], own: TensorSpec, to: int, of: int
) -> TensorSpec | None:
    """Send a spec to neighbour `to` and receive one from neighbour `of`, if they exist."""
    device = torch.device("cuda") if dist.get_backend(group) == "nccl" else torch.device("cpu")
    received, sent = torch.zeros(_LENGTH, dtype=torch.int64, device=device), _encode(own).to(device)
    works = []
    if of in neighbours:
        works.append((of, neighbours[of].receive(received, 0)))
    if to in neighbours:
        works.append((to, neighbours[to].send(sent, 0)))
    for neighbour, work in works:
        neighbours[neighbour].wait(work, 0, "agreeing on shapes with")
    return _decode(received.tolist()) if of in neighbours else None


def _encode(spec: TensorSpec) -> Tensor:
    shape, dtype = spec
    values = [_DTYPES.index(dtype), len(shape), *shape]
    return torch.tensor(values + [0] * (_LENGTH - len(values)))


def _decode(values: list[int]) -> TensorSpec:
    dtype, dimensions, *sizes = values
    return torch.Size(sizes[:dimensions]), _DTYPES[dtype]


def _text(spec: TensorSpec) -> str:
    return f"{list(spec[0])} of {str(spec[1]).removeprefix('torch.')}"
