"""Before the first tick, neighbours tell each other where they compute, and check that their tensors match."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import PeerError
from stage_worker.edges.torch_p2p import Peer

TensorSpec = tuple[torch.Size, torch.dtype]

_TAG = 2
_LENGTH = 20  # int64: two halves of the GPU's UUID and whether there is one, dtype, number of dimensions, sizes
_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
_HALF, _SIGN = 1 << 64, 1 << 63


class _Message(NamedTuple):
    spec: TensorSpec
    gpu: int | None


def agree(
    group: dist.ProcessGroup,
    stage: int,
    stages: int,
    specs: tuple[TensorSpec, TensorSpec],
    gpu: int | None,
    deadline: float,
) -> dict[int, int | None]:
    """Exchange specs and GPUs with both neighbours: each stage sends its output's spec up and its input's down.

    Args:
        group: a gloo group of all stages.
        specs: of this stage's input and output.
        gpu: UUID of the GPU that it computes on; None on the CPU.
        deadline: seconds to wait for a neighbour.

    Returns:
        The neighbours' GPUs, by stage.

    Raises:
        PeerError: the specs of an edge differ, or a neighbour does not answer. The message names both stages.
    """
    inputs, outputs = specs
    neighbours = {n: Peer(group, stage, n, deadline, _TAG) for n in (stage - 1, stage + 1) if 0 <= n < stages}
    below = _exchange(neighbours, _Message(outputs, gpu), to=stage + 1, of=stage - 1)
    above = _exchange(neighbours, _Message(inputs, gpu), to=stage - 1, of=stage + 1)
    if below is not None:
        _compare(stage - 1, below.spec, inputs)
    if above is not None:
        _compare(stage, outputs, above.spec)
    return {n: message.gpu for n, message in ((stage - 1, below), (stage + 1, above)) if message is not None}


def _compare(lower: int, sent: TensorSpec, expected: TensorSpec) -> None:
    if sent != expected:
        raise PeerError(
            f"stage {lower} outputs {_text(sent)} but stage {lower + 1} expects {_text(expected)}: "
            f"do both hosts have the same model file and the same versions?"
        )


def _exchange(neighbours: dict[int, Peer], own: _Message, to: int, of: int) -> _Message | None:
    """Send a message to neighbour `to` and receive one from neighbour `of`, if they exist."""
    received, sent = torch.zeros(_LENGTH, dtype=torch.int64), _encode(own)
    works = []
    if of in neighbours:
        works.append((of, neighbours[of].receive(received, 0)))
    if to in neighbours:
        works.append((to, neighbours[to].send(sent, 0)))
    for neighbour, work in works:
        neighbours[neighbour].wait(work, 0, "agreeing on shapes with")
    return _decode(received.tolist()) if of in neighbours else None


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
