"""A stage worker on the CPU whose edges are those of GPUs. The variable EDGES says which:

staged   tensors are on another device than the host's memory, from which gloo sends them
apart    headers and tensors are sent each by groups of their own, as by gloo and NCCL
device   tensors are in memory that both stages map and wait for by events, as by CUDA IPC

`cpu:0` stands for the GPU: torch computes on the CPU, but takes it for another device than `cpu`. A tape of operators
stands for CUDA graphs.
"""

import os
import warnings
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch

import stage_worker.__main__ as worker
from common.config.settings import Config
from common.processes.membership import Membership
from stage_worker import assembly
from stage_worker.device import use_device
from stage_worker.edges import connect, mapped_edges
from stage_worker.edges.process_groups import Groups
from tests.support.fake_ipc import HostIpc
from tests.support.tape import Tape


def main() -> None:
    edges = os.environ["EDGES"]
    warnings.filterwarnings("error", ".*cannot be replayed")
    with patch.multiple(assembly, use_device=_cpu_0, recorder_of=_tape), ExitStack() as more:
        if edges == "apart":
            nccl: dict[str, Any] = {"uses_nccl": _always, "on_cpu": _never, "choose": _nccl}
            more.enter_context(patch.multiple(connect, **nccl))
            more.enter_context(patch.multiple(Groups, form_nccl=_form_nccl))
        elif edges == "device":
            ipc: dict[str, Any] = {"ipc_of": lambda _: HostIpc()}
            more.enter_context(patch.multiple(mapped_edges, **ipc))
            more.enter_context(patch.multiple(connect, choose=lambda *_: "device"))
        worker.main()


def _cpu_0(config: Config, me: Membership) -> torch.device:
    return torch.device(use_device(config, me).type, 0)


def _tape(config: Config, *_: object) -> Tape | None:
    return Tape() if config.graph else None


def _nccl(*arguments: object) -> str:
    return "nccl" if arguments[-1] == 1 else "gloo"  # the edge's ticks


def _always(*_: object, **__: object) -> bool:
    return True


def _never(*_: object) -> bool:
    return False


def _form_nccl(groups: Groups) -> None:
    groups._nccl = groups._nccl or (groups._form("gloo", 60), groups._form("gloo", 60))


if __name__ == "__main__":
    main()
