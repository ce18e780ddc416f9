"""Measure what an edge between two stages on one host costs with each transport.

    python benchmarks/edges.py [--json] [--sizes 4096 …]

Two processes with one thread each. At each tick, each process sends a packet to the other and receives the one that
the other sent at the previous tick, as two neighbouring stages do. The tensor is written into the packet once and read
once. The figures are milliseconds per tick and process: wall time, and CPU time over all threads of the process.

shared           the product's transport between stages on one host (stage_worker/edges/shared_memory.py)
gloo             the product's transport between hosts (stage_worker/edges/torch_p2p.py), over loopback
shared_bf16      the same two with bfloat16 packets of half as many bytes: tensors are rounded when written and
gloo_bf16        converted back to float32 when read
multiprocessing  torch.multiprocessing: tensors through a pipe, moved to shared memory by torch
rpc              torch.distributed.rpc: TensorPipe with its shared-memory transport

All transports but RPC alternate in rounds; the figures are medians over the rounds. RPC runs last, as its
shared-memory transport polls and so slows other processes down.
"""

import argparse
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import count, span

SIZES = (4 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20)  # bytes of a tensor
ALTERNATING, ALONE = ("shared", "shared_bf16", "gloo", "gloo_bf16", "multiprocessing"), ("rpc",)
DEADLINE = 60.0
Tick = Callable[[int], None]


def main() -> None:
    """Measure all transports and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--sizes", type=count, nargs="+", default=SIZES, help="tensor sizes in bytes")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=0.5, help="approximate duration of a transport's round")
    arguments = parser.parse_args()
    from common.processes.allocator import ALLOCATOR

    os.environ.update(ALLOCATOR)  # the stages use it too
    figures = {size: measure(size, arguments.rounds, arguments.seconds) for size in arguments.sizes}
    names = "".join(f"{name:<20}" for name in (*ALTERNATING, *ALONE))
    print(f"ms per tick and process: wall time / CPU time\n  KiB     {names}")
    for size, row in figures.items():
        cells = (f"{each['wall_ms']:.3f} / {each['cpu_ms']:.3f}" for each in row.values())
        print(f"{size // 1024:>5}     " + "".join(f"{cell:<20}" for cell in cells))
    if arguments.json:
        print(json.dumps(figures))


def measure(size: int, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Medians over the rounds, by transport."""
    figures: dict[str, dict[str, float]] = {}
    for names in (ALTERNATING, ALONE):
        pairs = {name: Pair(name, size) for name in names}
        ticks = {name: max(20, round(seconds / pair.play(20)[0])) for name, pair in pairs.items()}
        took = [{name: pair.play(ticks[name]) for name, pair in pairs.items()} for _ in range(rounds)]
        for name, pair in pairs.items():
            wall, cpu = (1e3 * median(each[name][figure] for each in took) for figure in (0, 1))
            figures[name] = {"wall_ms": round(wall, 4), "cpu_ms": round(cpu, 4)}
            pair.close()
    return figures


class Pair:
    """Two processes, connected by one of the transports."""

    def __init__(self, name: str, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        between = context.Pipe()
        self._folder = tempfile.TemporaryDirectory()
        self._ends: list[tuple[Connection, Any]] = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            arguments = theirs, between[rank], name, size, rank, f"{self._folder.name}/store"
            process = context.Process(target=_member, args=arguments, daemon=True)
            process.start()
            self._ends.append((ours, process))

    def play(self, ticks: int) -> tuple[float, float]:
        """Run some ticks. Returns wall and CPU seconds per tick, each of the process that took more."""
        for connection, _ in self._ends:
            connection.send(ticks)
        took = [connection.recv() for connection, _ in self._ends]
        return max(wall for wall, _ in took), max(cpu for _, cpu in took)

    def close(self) -> None:
        """Stop the processes."""
        for connection, process in self._ends:
            connection.send(0)
            process.join(DEADLINE)
        self._folder.cleanup()


def _member(control: Connection, other: Connection, name: str, size: int, rank: int, store: str) -> None:
    import torch

    torch.set_num_threads(1)
    setup: dict[str, Callable[..., Tick]] = {
        "shared": _shared,
        "shared_bf16": partial(_shared, dtype=torch.bfloat16),
        "gloo": _gloo,
        "gloo_bf16": partial(_gloo, dtype=torch.bfloat16),
        "multiprocessing": _multiprocessing,
        "rpc": _rpc,
    }
    tick = setup[name](torch.rand(8, size // 32), rank, other, store)
    start = 0
    while ticks := control.recv():
        began, cpu = time.perf_counter(), time.process_time()
        for number in range(start, start + ticks):
            tick(number)
        control.send(((time.perf_counter() - began) / ticks, (time.process_time() - cpu) / ticks))
        start += ticks
    os._exit(0)  # a normal exit would wait for RPC's threads


def _ends(sender: Any, receiver: Any, tensor: Any, dtype: Any) -> Tick:
    from common.rule.packet import Packet

    source, read = Packet(tensor.shape), tensor.clone()
    receiver.receive(0)

    def tick(number: int) -> None:
        sender.send(number, source, tensor)
        receiver.receive(number + 1).tensor.sum()

    def tick_half(number: int) -> None:
        sender.send(number, source, tensor)
        read.copy_(receiver.receive(number + 1).tensor).sum()

    return tick if dtype is None else tick_half


def _shared(tensor: Any, rank: int, other: Connection, store: str, dtype: Any = None) -> Tick:
    from common.shared_memory.fd_passing import FdListener, connect
    from common.telemetry.spans import Kind, WorkClock
    from stage_worker.edges import shared_memory as shared
    from stage_worker.edges.ends import Receiver, Sender
    from stage_worker.edges.links import EdgeEnd

    if rank == 0:
        listener = FdListener()
        other.send(listener.name)
        connection = listener.accept("stage 1", DEADLINE)
    else:
        connection = connect(other.recv(), "stage 0", DEADLINE)
    end = EdgeEnd("edge", (tensor.shape, dtype or tensor.dtype), rank, 1 - rank, DEADLINE)
    out = shared.offer_edge(connection, end)
    incoming = shared.accept_edge(connection, end)
    work, kind = WorkClock(), Kind.WAIT_ACTIVATION
    sender, receiver = Sender(out, work, kind, kind), Receiver(incoming, rank, 1 - rank, 1, work, kind)
    return _ends(sender, receiver, tensor, dtype)


def _gloo(tensor: Any, rank: int, other: Connection, store: str, dtype: Any = None) -> Tick:
    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore

    from common.rule.packet import Packet
    from common.telemetry.spans import Kind, WorkClock
    from stage_worker.edges.ends import Receiver, Sender
    from stage_worker.edges.torch_p2p import Channel, P2PIncoming, P2POutgoing, Peer

    dist.init_process_group("gloo", store=FileStore(store, 2), rank=rank, world_size=2)
    out, back = (dist.new_group([0, 1], backend="gloo") for _ in range(2))
    groups = (out, back) if rank == 0 else (back, out)  # one per direction, as activations and gradients have
    outgoing, incoming = (Peer(group, rank, 1 - rank, DEADLINE) for group in groups)
    packets = [Packet(tensor.shape, dtype or tensor.dtype) for _ in range(4)]
    work, kind = WorkClock(), Kind.WAIT_ACTIVATION
    sender = Sender(P2POutgoing(Channel(outgoing), packets[:2]), work, kind, kind)
    receiver = Receiver(P2PIncoming(Channel(incoming), packets[2:]), rank, 1 - rank, 1, work, kind)
    return _ends(sender, receiver, tensor, dtype)


def _multiprocessing(tensor: Any, rank: int, other: Connection, store: str) -> Tick:
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing  # noqa: F401  # registers tensors with the pickler

    def tick(number: int) -> None:
        other.send_bytes(ForkingPickler.dumps(tensor.clone()))
        other.recv().sum()

    return tick


_arrived: "queue.SimpleQueue[Any]" = queue.SimpleQueue()


def _arrive(tensor: Any) -> None:
    _arrived.put(tensor)


def _rpc(tensor: Any, rank: int, other: Connection, store: str) -> Tick:
    from torch.distributed import rpc

    options = rpc.TensorPipeRpcBackendOptions(num_worker_threads=2, init_method=f"file://{store}")
    rpc.init_rpc(str(rank), rank=rank, world_size=2, rpc_backend_options=options)

    def tick(number: int) -> None:
        sent = rpc.rpc_async(str(1 - rank), _arrive, (tensor.clone(),))
        _arrived.get(timeout=DEADLINE).sum()
        sent.wait()

    return tick


if __name__ == "__main__":
    main()
