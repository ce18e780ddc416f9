"""The stream of a GPU on which a stage computes, so that the stages of one process compute there at the same time."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import ParamSpec

import torch

P = ParamSpec("P")
_POLL = 0.01  # seconds


class StageStream:
    """A stage's own stream, if its process holds several stages on a GPU; else nothing changes.

    Attributes:
        alone: whether the process holds no other stage.
    """

    def __init__(self, device: torch.device, alone: bool) -> None:
        self.alone = alone
        self._device, self._module = device, torch.get_device_module(device)
        self._stream = self._module.Stream() if device != torch.device("cpu") and not alone else None

    def over(self, call: Callable[P, None]) -> Callable[P, None]:
        """The same call, which gives its work to the stream."""
        stream = self._stream
        if stream is None:
            return call

        @wraps(call)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            with self._module.stream(stream):
                call(*args, **kwargs)

        return run

    def begin(self) -> None:
        """Begin a phase: the stream waits for what was done outside it, such as loading weights."""
        if self._stream is not None:
            self._stream.wait_stream(self._module.current_stream())

    def drained(self, seconds: float) -> bool:
        """Wait until the device has done all work of the stage; False if it has not within so many seconds.

        It may never do it, as work may wait for a neighbour that is lost.
        """
        if self._device.type == "cpu":
            return True
        event, end = self._module.Event(), time.monotonic() + seconds
        event.record(self._stream or self._module.current_stream(self._device))
        while not event.query():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
        return True

    def aside(self) -> AbstractContextManager[object]:
        """A context whose work waits for none of the stage's."""
        return nullcontext() if self._device.type == "cpu" else self._module.stream(self._module.Stream(self._device))

    def end(self) -> None:
        """End a phase: wait until the device has done everything."""
        if self._device.type != "cpu":
            self._module.synchronize(self._device)
