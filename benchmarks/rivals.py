"""Plain torch to compare with: backpropagation in one process or in unrelated copies, or DistributedDataParallel.

The same model, optimiser, loss and frames as the product's workers get; frames lie in the process's own memory. The
processes live until `close` and do nothing but what they are asked for.
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


class Rival:
    """Processes that train `config`'s model, each on its share of the batch; or copies of it, each on a whole batch."""

    def __init__(self, config: "Config", processes: int, threads: int, copies: bool = False) -> None:
        """`threads` of each process; `copies` exchange nothing."""
        assert copies or config.data.slots % processes == 0
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._members = []
        for rank in range(processes):
            ours, theirs = context.Pipe()
            place = (0, 1) if copies else (rank, processes)
            given = (theirs, config.model_dump_json(), rank, place, threads, Path(self._folder.name) / "meet")
            process = context.Process(target=_work, args=given, daemon=True)
            process.start()
            theirs.close()  # so that a process that died is noticed
            self._members.append((ours, process))

    def run(self, steps: int) -> float:
        """Seconds for so many steps, of the process that took longest."""
        for connection, _ in self._members:
            connection.send(steps)
        return max(_answer(connection) for connection, _ in self._members)

    def close(self) -> None:
        """Let them go."""
        for connection, process in self._members:
            connection.send(0)
            process.join(DEADLINE)
        self._folder.cleanup()


def _answer(connection: Connection) -> float:
    if not connection.poll(DEADLINE):
        raise SidewaysError(f"a process of plain torch has not answered for {DEADLINE:g} s: start the benchmark again")
    return float(connection.recv())


def _work(connection: Connection, settings: str, number: int, place: tuple[int, int], threads: int, meet: Path) -> None:
    """One process, which has a place among those that work together: answers steps with the seconds that they took."""
    os.environ["RANK"] = str(number)
    rank, processes = place
    import torch
    import torch.nn.functional as F

    from common.config.settings import Config
    from common.models import build
    from common.rule.optimiser import build_optimiser
    from common.rule.pixels import normalise

    torch.set_num_threads(threads)
    config = Config.model_validate_json(settings)
    model: nn.Module = build(config, CLASSES)
    if processes > 1:
        model = _distributed(model, rank, processes, meet)
    optimiser = build_optimiser(model, config.optimiser, mismatch=0)
    assert optimiser is not None
    mine = slice(rank * config.data.slots // processes, (rank + 1) * config.data.slots // processes)
    frames, labels = (torch.from_numpy(part[mine]) for part in draw(config))
    x = torch.empty(frames.shape)
    while steps := _asked(connection):
        start = time.perf_counter()
        for _ in range(steps):
            normalise(x, frames, config.data.mean, config.data.std)
            F.cross_entropy(model(x), labels).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        connection.send(time.perf_counter() - start)


def _asked(connection: Connection) -> int:
    try:
        return int(connection.recv())
    except EOFError:  # who asked is gone
        return 0


def _distributed(model: "nn.Module", rank: int, processes: int, meet: Path) -> "nn.Module":
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=processes)
    return DistributedDataParallel(model)
