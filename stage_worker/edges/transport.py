"""Which transport an edge gets. Both stages of an edge decide from the same facts, so they agree."""

from typing import Literal, NamedTuple
from uuid import UUID

import torch

from common.config.settings import Config
from common.errors import ConfigError
from common.processes.membership import Membership

Transport = Literal["shared", "device", "nccl", "gloo"]
"""shared: host memory that both stages map; device: GPU memory that both map (CUDA IPC); nccl: between GPUs;
gloo: from host memory, where a GPU's tensors are staged."""


class Placement(NamedTuple):
    """Where a stage computes.

    Attributes:
        host: whether it is on this host.
        gpu: the UUID of its GPU as a number; None on the CPU.
    """

    host: bool
    gpu: int | None


def gpu_of(device: torch.device) -> int | None:
    """The UUID of a GPU as a number; None for the CPU."""
    if device.type != "cuda":
        return None
    return UUID(str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")).int


def on_cpu(config: Config, me: Membership) -> bool:
    """Whether all stages compute on the CPU."""
    return config.device == "cpu" or not any(me.stage_member(stage).devices for stage in range(me.stages))


def on_gpus(config: Config, me: Membership) -> bool:
    """Whether all stages compute on GPUs."""
    return config.device != "cpu" and all(me.stage_member(stage).devices for stage in range(me.stages))


def uses_nccl(config: Config, me: Membership) -> bool:
    """Whether the run needs groups for NCCL: all stages compute on GPUs, and not all edges can share their memory."""
    if not on_gpus(config, me):
        return False
    transport = config.network.transport
    return transport == "nccl" or (transport == "auto" and len(me.stages_on_host) < me.stages)


def choose(
    config: Config, edge: tuple[int, int], own: Placement, other: Placement, nccl: bool, ticks: int = 1
) -> Transport:
    """The transport of an edge.

    One of several ticks, as on slow links, never goes by NCCL: the receives that it posts ahead would outlast the
    phase, and NCCL, which has no tags and ends no transfer early, would wait for them at its end.

    Args:
        edge: the two stages, for error messages.
        own, other: where they compute.
        nccl: the run has groups for NCCL.
        ticks: of the edge.

    Raises:
        ConfigError: network.transport is not possible for this edge.
    """
    wanted, on_gpus = config.network.transport, own.gpu is not None and other.gpu is not None
    if wanted == "gloo":
        return "gloo"
    if wanted == "nccl":
        if not (nccl and on_gpus and own.gpu != other.gpu):
            raise ConfigError(
                f'network.transport = "nccl" needs a GPU for every stage, but stages {edge[0]} and {edge[1]} do not '
                'have one each: use "auto" or "gloo"'
            )
        if ticks > 1:
            raise ConfigError(
                f'network.transport = "nccl" takes one tick, but the edge between stages {edge[0]} and {edge[1]} takes '
                f'{ticks} (network.edge_ticks): use "auto" or "gloo"'
            )
        return "nccl"
    if other.host and (own.gpu is None) == (other.gpu is None):
        return "device" if on_gpus else "shared"
    if wanted == "shared":
        raise ConfigError(
            'network.transport = "shared" needs all stages on one host, and all on GPUs or all on the CPU, but stages '
            f'{edge[0]} and {edge[1]} are not: use "auto", which shares memory where possible'
        )
    return "nccl" if nccl and on_gpus and ticks == 1 else "gloo"
