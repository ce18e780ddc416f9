"""What the launcher imports before it forks the processes of a run, and what each of them does after the fork."""

import gc
import importlib
import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from common.errors import SidewaysError
from common.processes.addresses import LOOPBACK
from common.processes.interpreter import quiet_torch
from common.processes.output import exit_now, print_error

# by name, as the coordinator does not import the stage worker; torch's optimisers import the last one, which takes long
_MODULES = ("coordinator.run.process", "stage_worker.__main__", "torch._dynamo")


def import_before_fork() -> None:
    """Import what the processes of a run need, once for all of them.

    None of it starts a thread, which a fork would lack, or uses a GPU, which a fork could not use then.
    """
    quiet_torch()
    for module in _MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the garbage collector would write to every object, and thereby copy the shared pages


def become(program: Callable[[], None], name: str, rank: int, processes: int, port: int) -> NoReturn:
    """Run `program` in this process, just forked, as `rank` of so many. `port`: at which rank 0 serves the store."""
    code = 1
    try:
        os.setsid()  # a terminal signals the launcher alone, which passes it on
        _set_name(name)
        os.environ.update(_environment(str(rank), str(processes), port))
        program()
        code = 0
    except SidewaysError as error:
        print_error(error)
        code = error.code
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        exit_now(code)


def _environment(rank: str, processes: str, port: int) -> dict[str, str]:
    """The variables by which torch's processes find each other, as torchrun sets them."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {**own, "MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}


def _set_name(name: str) -> None:
    """Name this process in ps, top and pstree; its command line stays the launcher's."""
    with suppress(OSError):  # some sandboxes forbid it
        Path("/proc/self/comm").write_text(name)
