"""GPU memory and events shared by two processes, as the device edges use them, on the CPU.

`HostIpc` is for real processes: memory is a file both map, and events do nothing, as the CPU computes at once.
`DelayedIpc` is for two ends in one process: the reader's memory is a copy that is made only when the reader waits for
the event that says that it is written, and is spoilt as soon as it says that it has read it. Whoever reads without
waiting, or goes on reading, finds NaN.
"""

import itertools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stage_worker.edges.device_memory import Event


class NoEvent:
    """An event of a device that computes at once."""

    def record(self) -> None: ...

    def wait(self) -> None: ...


class HostIpc:
    """Memory of the host in place of a GPU's."""

    def describe_memory(self, memory: Tensor) -> str:
        """Move the tensor's memory to a file. Returns its path."""
        file, path = tempfile.mkstemp(prefix="sideways-fake-gpu-")
        os.close(file)
        memory.set_(_mapped(path, memory.shape, memory.dtype))  # type: ignore[call-overload]
        return path

    def open_memory(self, description: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Map that file, which nobody else opens."""
        memory = _mapped(description, shape, dtype)
        os.unlink(description)
        return memory

    def create_event(self) -> tuple[Event, Any]:
        return NoEvent(), 0

    def open_event(self, description: Any) -> Event:
        return NoEvent()


def _mapped(path: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.from_file(path, shared=True, size=count, dtype=dtype).zero_().view(tuple(shape))


@dataclass
class DelayedEvent:
    """An event of one slot: what happens when it is recorded, and when it is waited for."""

    on_record: Any = None
    on_wait: Any = None
    recorded: int = 0
    waited: int = 0

    def record(self) -> None:
        self.recorded += 1
        if self.on_record:
            self.on_record()

    def wait(self) -> None:
        self.waited += 1
        if self.on_wait:
            self.on_wait()


@dataclass
class DelayedIpc:
    """For both ends of one edge.

    Attributes:
        refuses: what the reader is told when it opens memory; empty: it can be opened.
    """

    refuses: str = ""
    written: list[DelayedEvent] = field(default_factory=list)
    read: list[DelayedEvent] = field(default_factory=list)
    _memories: dict[int, Tensor] = field(default_factory=dict)
    _events: dict[int, DelayedEvent] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def describe_memory(self, memory: Tensor) -> int:
        number = next(self._numbers)
        self._memories[number] = memory
        return number

    def open_memory(self, description: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.refuses:
            raise RuntimeError(self.refuses)
        source = self._memories[description]
        seen = torch.full_like(source, torch.nan)
        for slot, event in enumerate(self.written):
            event.on_wait = lambda slot=slot: seen[slot].copy_(source[slot])
        self._seen = seen
        return seen

    def create_event(self) -> tuple[Event, Any]:
        number, event = next(self._numbers), DelayedEvent()
        self._events[number] = event
        if not self._memories:
            self.written.append(event)
        else:
            slot = len(self.read)
            event.on_record = lambda: self._seen[slot].fill_(torch.nan)
            self.read.append(event)
        return event, number

    def open_event(self, description: Any) -> Event:
        return self._events[description]
