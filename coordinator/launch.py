"""A run on this machine: torch's elastic launcher starts one coordinator and D stage workers and supervises them."""

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from common.process import ALLOCATOR, be_parent, complain

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def launch(stages: int, arguments: list[str]) -> int:
    """Run `python *arguments` in stages + 1 processes, of which rank 0 coordinates. Returns the exit code of the run.

    The launcher meets itself over a file, so it opens no port; the processes' own sockets are on loopback.
    """
    be_parent()
    os.environ.update({**ALLOCATOR, **os.environ})
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # else a restart finds the dead group's addresses
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="sideways-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=stages + 1,
            run_id="sideways",
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder) / "rendezvous"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        handlers = {number: signal.getsignal(number) for number in _HANDLED}
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException as stopped:
            return 128 + stopped.sigval
        except ChildFailedError as failed:
            return _explain(failed.failures)
        finally:  # the launcher leaves its own behind
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 0


def _explain(failures: dict[int, ProcessFailure]) -> int:
    """Say which process ended the run, unless it has said so itself, and pass its exit code on."""
    rank, first = min(failures.items(), key=lambda item: _rank_of_guilt(item[1], failures))
    who = "the coordinator" if rank == 0 else f"stage {rank - 1}"
    if first.exitcode < 0:
        complain(
            f"{who} (pid {first.pid}) was killed by {signal.Signals(-first.exitcode).name}, so the run ended; "
            f"start it again, with more memory if nobody killed it on purpose"
        )
        return 1
    return first.exitcode


def _rank_of_guilt(failure: ProcessFailure, failures: dict[int, ProcessFailure]) -> tuple[bool, bool, int]:
    """Sorts the first cause to the front.

    One that was killed could not speak; those that failed because of it, at almost the same time, could. Much later,
    and by SIGTERM, it is the launcher that kills, to end the rest.
    """
    late = failure.timestamp > min(other.timestamp for other in failures.values()) + _SAME_TIME
    killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    return late, not killed, failure.timestamp


_SAME_TIME = 2  # seconds
