"""What a process of a run does after the launcher has forked it: it runs a module, with the environment of its rank."""

import gc
import importlib
import os
import runpy
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from common.processes.addresses import LOOPBACK
from common.processes.lifecycle import exit_now, quiet_torch

# by name, because the coordinator does not import the stage worker
_MODULES = ("coordinator.run.process", "stage_worker.__main__")


def import_before_fork() -> None:
    """Import what the processes of a run need, once for all of them."""
    quiet_torch()
    for module in _MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork lacks the other threads, but has the locks that they held"
    gc.collect()
    gc.freeze()  # else the garbage collector would write to every object, and thereby copy the shared pages


@dataclass(frozen=True)
class Program:
    """`python -m module *arguments` in `processes` processes, which meet on loopback."""

    module: str
    arguments: list[str]
    processes: int

    def become(self, rank: int, port: int) -> NoReturn:
        """Turn this process, just forked, into the one of this rank. `port`: at which rank 0 serves the store."""
        code = 1
        try:
            _set_name("coordinator" if rank == 0 else f"stage{rank - 1}")
            os.environ.update(self._environment(rank, port))
            sys.argv = [self.module, *self.arguments]
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            exit_now(code)

    def _environment(self, rank: int, port: int) -> dict[str, str]:
        """The variables by which torch's processes find each other, as torchrun sets them."""
        own, world = str(rank), str(self.processes)
        return {
            "RANK": own,
            "LOCAL_RANK": own,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(port),
        }


def _set_name(name: str) -> None:
    """Name this process in ps, top and pstree; its command line stays the launcher's."""
    Path("/proc/self/comm").write_text(name)
