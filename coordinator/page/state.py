"""The state that the page shows: updated by the training, read by browsers.

consumes   lines of metrics.jsonl and the run's state, in the training's thread, which only stores them
produces   the answers to /api/state and /api/frames, in the thread of the request
waits for  nothing; only `close` pauses briefly if a browser is watching, so that it shows the final state
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.config.settings import Config
from common.partition.balance import by_stage
from common.rule.schedule import schedule_of
from common.rule.skips import sources
from common.run_registry.records import IN_ORDER, State, finite
from coordinator.monitor.listener import LineListener, ProgressEvent
from coordinator.monitor.run_status import RunStatus
from coordinator.page.curves import MetricHistory
from coordinator.page.http_app import PageServer
from coordinator.page.replicas import ReplicaStates
from coordinator.page.video import VideoView
from coordinator.run_directory import METRICS

_WATCHED, _EXIT_DELAY = 3.0, 0.8  # seconds since the last request; for a final request. The page polls every 0.5 s


class PageState(LineListener):
    """The page's state of one run. All methods but `close` return at once."""

    def __init__(
        self, config: Config, run: Path, total_ticks: int, page_server: PageServer, warnings: Sequence[str]
    ) -> None:
        """Start with an empty history.

        Args:
            run: the run directory.
            total_ticks: ticks of the whole training.
            warnings: all warnings of the run; the caller appends new ones.
        """
        self._config, self._run, self._page_server, self._warnings = config, run, page_server, warnings
        self._status, self._history = RunStatus(config, run, total_ticks), MetricHistory()
        self._replicas = ReplicaStates(config)
        self._blocks: list[Sequence[str]] = [[] for _ in range(config.stages)]
        self._origin, self._score = 0, "val_top1"
        self._numbers: Callable[[], dict[str, float]] = dict
        self._video: VideoView | None = None
        self._last_request_time = -_WATCHED
        self._lock = threading.Lock()

    def running(
        self,
        config: Config,
        origin: int,
        numbers: Callable[[], dict[str, float]],
        score: str = "val_top1",
        video: VideoView | None = None,
    ) -> None:
        """The pipeline is ready.

        Args:
            config: with what was measured.
            origin: the tick at which it starts, or started, empty.
            numbers: returns the Prometheus metrics by name; called in any thread.
            score: the figure of evaluations that is shown.
            video: what the stages hold, in pictures; None if it is not shown.
        """
        self._score, self._video = score, video
        self._config, self._origin, self._numbers = config, origin, numbers

    # ---- called by the training

    def split(self, blocks: Sequence[str], split: Sequence[int]) -> None:
        """Set the blocks of each stage."""
        self._blocks = by_stage(blocks, split)

    def line(self, line: dict[str, Any], **status: Any) -> None:
        """Add a line of metrics.jsonl, and update the fields of Status that it changes."""
        with self._lock:
            self._status.line(line, **status)
            self._history.add(line)
            self._replicas.add(line)

    def replica_progress(self, event: ProgressEvent) -> None:
        """Store what a stage of another replica is doing."""
        with self._lock:
            self._replicas.add(event.line)

    def healed(self, tick: int, lost: dict[int, int]) -> None:
        """The run went on at `tick`, where some stages had lost updates."""
        super().healed(tick, lost)
        with self._lock:
            self._replicas.healed(tick, lost)

    def state(self, state: State, message: str, tick: int) -> None:
        """Store a change of the run's state."""
        with self._lock:
            self._status.state(state, message, tick)

    def resumed(self, tick: int, evaluated: bool) -> None:
        """The run resumes at `tick`: load the history from metrics.jsonl."""
        with suppress(OSError), self._lock:
            self._history.replay(self._run / METRICS)

    def close(self, state: State, message: str, tick: int) -> None:
        """The run has ended: if a browser is watching, wait until it has fetched the final state."""
        self.state(state, message, tick)
        if state in IN_ORDER:
            self._page_server.remove_url_file()
        if time.monotonic() - self._last_request_time < _WATCHED:
            time.sleep(_EXIT_DELAY)

    # ---- called by requests

    def answer(self) -> bytes:
        """The body of /api/state, as JSON; docs/watching.md describes it. May be called in any thread."""
        self._last_request_time = time.monotonic()
        with self._lock:
            status, history = self._status.status(self._run.name), self._history
            replicas = self._replicas.rows()
            answer: dict[str, Any] = {"curves": history.curves(), "restarts": list(history.restarts)}
        rate = status.ticks_per_second
        answer |= {
            "status": status.model_dump(),
            "score": self._score,
            "slots": self._config.data.slots,
            "ticks_per_second": rate,
            "frames_per_second": rate and rate * self._config.data.slots,
            "pipeline": self._pipeline(status.tick - 1),
            "replicas": replicas,
            "readers": self._config.data.readers,
            "numbers": {name: finite(value) for name, value in self._numbers().items()},
            "warnings": list(self._warnings),
            "video": self._video is not None,
        }
        return json.dumps(answer, allow_nan=False).encode()

    def frames(self, tick: int) -> bytes | None:
        """The body of /api/frames, as JSON; None if there is none but that of `tick`. May be called in any thread."""
        return None if self._video is None else self._video.answer(tick)

    def _pipeline(self, tick: int) -> dict[str, Any]:
        """What each stage worked on at `tick`, the last completed. Frames and ticks are counted across restarts."""
        return {
            "tick": tick,
            "origin": self._origin,
            "stages": [self._stage(stage, tick) for stage in range(self._config.stages)],
        }

    def _stage(self, stage: int, tick: int) -> dict[str, Any]:
        schedule, ticks = schedule_of(self._config), tick - self._origin
        frame, gradient = schedule.frame(stage, ticks), schedule.gradient(stage, ticks)
        return {
            "blocks": self._blocks[stage],
            "frame": None if frame is None else self._origin + frame,
            "gradient": None if gradient is None else self._origin + gradient,
            "mismatch": schedule.mismatch(stage),
            "skips": sources(self._config.skip_pairs, stage),
        }
