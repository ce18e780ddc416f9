"""What the GPU and its driver give: copies, waits, launches, and memory and events shared between two processes.

    python -m benchmarks.drill.primitives

CUDA IPC is what edges between stages of one host stand on. A child process opens a tensor of the parent's, waits for
an event of the parent's, checks what it reads, copies it, and answers over a pipe.
"""

import json
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

_SIZE = 16 * 2**20  # bytes
_ROUNDS = 50


def main() -> None:
    """Print one line of JSON. Exits with an error where the child reads something else than the parent wrote."""
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {"card": properties.name, "gib": round(properties.total_memory / 2**30, 1)}
    found |= copies() | calls() | jitter(torch.device("cuda"))
    try:
        found["ipc"] = shared_with_a_child()
    except Exception as error:  # the report says so: edges by CUDA IPC are then not possible here
        found["ipc"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    print(json.dumps(found))


def copies() -> dict[str, float]:
    """GB/s of copies of 16 MiB."""
    device = torch.empty(_SIZE, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(device)
    pageable = torch.empty(_SIZE, dtype=torch.uint8)
    pinned = torch.empty(_SIZE, dtype=torch.uint8, pin_memory=True)
    work: dict[str, Callable[[], Any]] = {
        "pageable_to_device_gbps": lambda: device.copy_(pageable),
        "pinned_to_device_gbps": lambda: device.copy_(pinned, non_blocking=True),
        "device_to_pinned_gbps": lambda: pinned.copy_(device, non_blocking=True),
        "device_to_device_gbps": lambda: other.copy_(device),
    }
    return {name: round(_SIZE / _seconds(one) / 1e9, 2) for name, one in work.items()}


def calls() -> dict[str, float]:
    """Microseconds on the host."""
    one, head = torch.zeros(1, device="cuda"), torch.zeros(64, dtype=torch.uint8, device="cuda")
    pinned = torch.zeros(64, dtype=torch.uint8, pin_memory=True)
    event = torch.cuda.Event()
    return {
        "launch_us": round(1e6 * _host_seconds(lambda: one.add_(1)), 2),
        "idle_sync_us": round(1e6 * _host_seconds(torch.cuda.synchronize), 2),
        "event_record_us": round(1e6 * _host_seconds(event.record), 2),
        "header_to_host_us": round(1e6 * _host_seconds(lambda: pinned.copy_(head)), 2),
    }


def jitter(device: torch.device) -> dict[str, Any]:
    """How long stage 0 jitters the colours of 32 frames of 224 × 224, and whether the bits are the CPU's."""
    from common.rule.colour_jitter import ColourJitter

    frames = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
    there, changes = frames.to(device), np.random.default_rng(0).uniform(-0.4, 0.4, (32, 4))
    colours = np.array([1, 1, 1, 0]) + changes
    own = ColourJitter(device)
    same = torch.equal(own(there, colours).cpu(), ColourJitter(torch.device("cpu"))(frames, colours))
    return {"jitter_ms": round(1e3 * _seconds(lambda: own(there, colours)), 2), "jitter_equals_the_cpus": same}


def shared_with_a_child() -> dict[str, float]:
    """Copies out of the parent's memory by another process, and the time from the parent's write to the answer."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    memory = torch.zeros(_SIZE, dtype=torch.uint8, device="cuda")
    event = torch.cuda.Event(interprocess=True)
    event.record()
    child = context.Process(target=_child, args=(theirs, memory, event.ipc_handle()), daemon=True)
    child.start()
    _answer(ours)  # it is there
    seconds = []
    for number in range(1, _ROUNDS):
        start = time.perf_counter()
        memory.fill_(number)
        event.record()
        ours.send(number)
        _answer(ours)
        seconds.append(time.perf_counter() - start)
    ours.send(None)
    rate = _answer(ours)
    child.join(10)
    return {"copy_gbps": rate, "write_to_answer_us": round(1e6 * median(seconds), 1)}


def _answer(connection: Connection) -> Any:
    if not connection.poll(20):
        raise TimeoutError("the other process does not answer")
    found = connection.recv()
    if isinstance(found, Exception):
        raise found
    return found


def _child(connection: Connection, memory: torch.Tensor, handle: bytes) -> None:
    try:
        event = torch.cuda.Event.from_ipc_handle(memory.device, handle)
        mine = torch.empty_like(memory)
        connection.send(True)
        while (number := connection.recv()) is not None:
            event.wait()
            mine.copy_(memory)
            least, most = int(mine.min()), int(mine.max())
            if (least, most) != (number, number):
                raise ValueError(f"read {least} … {most} where {number} was written")
            connection.send(True)
        connection.send(round(_SIZE / _seconds(lambda: mine.copy_(memory)) / 1e9, 2))
    except Exception as error:
        connection.send(error)


def _seconds(work: Callable[[], Any]) -> float:
    """Of the device, a call: the median."""
    found = []
    for _ in range(_ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return median(found)


def _host_seconds(work: Callable[[], Any]) -> float:
    """Of the host, a call: the median of some hundred calls each."""
    found = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(100):
            work()
        found.append((time.perf_counter() - start) / 100)
    return median(found)


if __name__ == "__main__":
    main()
