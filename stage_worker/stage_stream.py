"""The stream of a GPU on which a stage computes, so that the stages of one process compute there at the same time."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch

P = ParamSpec("P")


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

    def end(self) -> None:
        """End a phase: wait until the device has done everything."""
        if self._device.type != "cpu":
            self._module.synchronize(self._device)
