"""Plain torch for comparison: backpropagation in one process or in independent copies, or DistributedDataParallel.

Model, optimiser, loss and frames are the same as the product's workers have; the frames are in the process's own
memory. The processes live until `close`, and are idle between calls of `run`.
"""

import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import CLASSES, DEADLINE, draw
from common.errors import SidewaysError

if TYPE_CHECKING:
    from torch import nn

    from common.config.settings import Config


class PlainTorch:
    """Processes that train `config`'s model, each on its share of the batch, or, as copies, each on a whole batch."""

    def __init__(self, config: "Config", processes: int, threads: int, copies: bool = False) -> None:
        """`threads` is the number per process; with `copies`, the processes exchange nothing."""
        assert copies or config.data.slots % processes == 0
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._members = []
        for rank in range(processes):
            ours, theirs = context.Pipe()
            place = (0, 1) if copies else (rank, processes)
            arguments = (theirs, config.model_dump_json(), rank, place, threads, Path(self._folder.name) / "rendezvous")
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # else `recv` would wait forever for a process that has died
            self._members.append((ours, process))

    def run(self, steps: int) -> float:
        """The seconds that `steps` steps take in the slowest process. Raises SidewaysError if one does not answer."""
        for connection, _ in self._members:
            connection.send(steps)
        return max(_answer(connection) for connection, _ in self._members)

    def close(self) -> None:
        """Stop the processes."""
        for connection, process in self._members:
            connection.send(0)
            process.join(DEADLINE)
        self._folder.cleanup()


def _answer(connection: Connection) -> float:
    if not connection.poll(DEADLINE):
        raise SidewaysError(f"a plain torch process did not answer within {DEADLINE:g} s: run the benchmark again")
    return float(connection.recv())


def _work(
    connection: Connection, settings: str, number: int, place: tuple[int, int], threads: int, rendezvous: Path
) -> None:
    """The main function of a process: receives numbers of steps and sends the seconds that they took.

    Args:
        connection: To the benchmark.
        settings: The Config as JSON.
        number: The process's number among all.
        place: Rank and world size in its process group.
        threads: For torch.
        rendezvous: The file at which a process group meets.
    """
    os.environ["RANK"] = str(number)
    rank, processes = place
    import torch
    import torch.nn.functional as F

    from common.config.settings import Config
    from common.models import build
    from common.rule.optimiser import build_optimiser
    from common.rule.pixels import Normaliser

    torch.set_num_threads(threads)
    config = Config.model_validate_json(settings)
    model: nn.Module = build(config, CLASSES)
    if processes > 1:
        model = _distributed(model, rank, processes, rendezvous)
    optimiser = build_optimiser(model, config.optimiser, mismatch=0)
    assert optimiser is not None
    mine = slice(rank * config.data.slots // processes, (rank + 1) * config.data.slots // processes)
    frames, labels = (torch.from_numpy(part[mine]) for part in draw(config))
    x, normalise = torch.empty(frames.shape), Normaliser(*config.data.normalisation)
    while steps := _requested_steps(connection):
        start = time.perf_counter()
        for _ in range(steps):
            normalise(x, frames)
            F.cross_entropy(model(x), labels).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        connection.send(time.perf_counter() - start)


def _requested_steps(connection: Connection) -> int:
    try:
        return int(connection.recv())
    except EOFError:  # the benchmark is gone
        return 0


def _distributed(model: "nn.Module", rank: int, processes: int, rendezvous: Path) -> "nn.Module":
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    return DistributedDataParallel(model)
