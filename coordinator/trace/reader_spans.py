"""Asks the readers to record what they do, as the stages are asked: when they read and feed each frame of a trace."""

from functools import partial
from typing import Any, cast

from common.messages.stage_rpc import result_of, start_call
from common.processes.names import reader_name, reader_text
from common.telemetry.spans import Rows
from coordinator.trace.clocks import Clock, measure


class ReaderSpans:
    """The recordings of a run's readers. Its calls raise PeerError if a reader does not answer."""

    def __init__(self, count: int, deadline: float) -> None:
        """`count`: of readers; `deadline` of each call, in seconds."""
        self._readers, self._deadline = range(count), deadline

    def record(self, first: int, ticks: int) -> None:
        """Let them record so many frames, none of which may be read yet."""
        self._call_all("trace", first, ticks)

    def rows(self) -> list[Rows]:
        """What each has recorded so far."""
        return self._call_all("trace_rows")

    def clocks(self) -> list[Clock]:
        """Measure their clocks."""
        return [measure(partial(self._clock, reader)) for reader in self._readers]

    def _clock(self, reader: int) -> int:
        return cast(int, self._result(reader, "clock", start_call(reader_name(reader), "clock", (), self._deadline)))

    def _call_all(self, call: str, *args: int) -> list[Any]:
        pending = [start_call(reader_name(reader), call, args, self._deadline) for reader in self._readers]
        return [self._result(reader, call, future) for reader, future in enumerate(pending)]

    def _result(self, reader: int, call: str, future: Any) -> Any:
        [answer] = result_of(reader_text(reader), call, future, self._deadline)
        return answer
