"""metrics.jsonl: one line per event of a run."""

from collections.abc import Callable
from typing import Any

from coordinator.monitor.listener import LineListener, ProgressEvent
from coordinator.run_directory import RunDirectory


class MetricsFile(LineListener):
    """Writes the run directory's metrics.jsonl."""

    def __init__(self, directory: RunDirectory, warn: Callable[[str], None]) -> None:
        """`warn` is called once if a line cannot be written."""
        self._directory, self._warn = directory, warn
        self._warned = False

    def replica_progress(self, event: ProgressEvent) -> None:
        self.line(event.line)

    def line(self, line: dict[str, Any], **status: Any) -> None:
        """Append a line."""
        self._directory.metric(line)
        if self._directory.write_error and not self._warned:
            self._warned = True
            self._warn(f"metrics.jsonl cannot be written, but the training continues: {self._directory.write_error}")
