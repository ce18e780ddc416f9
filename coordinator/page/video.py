"""Takes previews of the pipeline while somebody looks at the page, a few a second.

consumes   parts of the training's steps, from this process or, with data.readers, from the first reader; and what the
           top stage gave for one of them
produces   the answer to /api/frames, in the thread of the request
waits for  nothing. While nobody looks, it costs a tick the reading of one attribute

A preview needs the frames that all stages hold at one tick: those of as many ticks as the pipeline is deep. The top
stage is asked in advance to copy its output for the oldest of them. If the request comes too late, the stage copies a
later one, the preview is dropped, and the next request is made earlier.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from common.config.settings import Config
from common.errors import SidewaysError
from common.messages.stage_calls import OutputSample, StageCalls
from common.messages.stage_rpc import Pending, Stages
from coordinator.page.pipeline_preview import PipelinePreview, PreviewSettings
from coordinator.video.preview import Preview, preview_of
from coordinator.video.targets import Step

_WATCHED = 2.0  # seconds since the last request
_EVERY, _ASK_EVERY = 0.25, 0.03  # seconds from one preview to the next; between two questions to the top stage
_LEAD, _LONGEST_LEAD = 2, 64  # ticks from the request until its frame is sent


class PreviewSource(Protocol):
    """Copies parts of steps that another process reads."""

    def request_previews(self, frames: list[int], rows: int, every: int, take: Callable[[Preview], None]) -> None:
        """Call `take` with these frames, of which none was read yet, once they are."""


class VideoView:
    """The previews of a run, of its replica 0.

    Attributes:
        wanted: whether to call `see`.
    """

    def __init__(
        self,
        config: Config,
        classes: Sequence[str],
        stages: Stages,
        now: Callable[[], float] = time.monotonic,
        readers: PreviewSource | None = None,
    ) -> None:
        """Begin with nothing.

        Args:
            classes: their names, or those of a label's numbers.
            readers: they read the steps; None if this process does.
        """
        self.wanted = False
        self._readers = readers
        self._settings = PreviewSettings(config, classes)
        self._stages, self._top, self._now = stages, config.stages - 1, now
        self._patience = config.network.deadline
        self._last_request_time = self._due = self._next = self._began = 0.0
        self._lead = _LEAD
        self._preview: PipelinePreview | None = None  # that is being taken
        self._asked: Pending[None] | None = None
        self._answer: Pending[OutputSample | None] | None = None
        self._shown: PipelinePreview | None = None

    # ---- called by requests

    def answer(self, tick: int) -> bytes | None:
        """The last preview as JSON; None if there is none but that of `tick`. May be called in any thread."""
        self._last_request_time, self.wanted = self._now(), True
        shown = self._shown
        return None if shown is None or shown.tick == tick else shown.to_json()

    # ---- called by the training

    def see(self, tick: int, step: Step | None) -> None:
        """Called with every step while `wanted`, before it is sent. None: it is read in another process."""
        now = self._now()
        try:
            if self._preview is None:
                self._begin(tick, now)
            else:
                self._copy(self._preview, tick, step)
                self._ask(self._preview, now)
        except SidewaysError:  # a lost stage is reported elsewhere
            self._preview = None

    def _begin(self, tick: int, now: float) -> None:
        if now - self._last_request_time > _WATCHED:
            self.wanted = False
        elif now >= self._due:
            preview, settings = PipelinePreview(self._settings, tick + self._lead), self._settings
            call = StageCalls.sample_output
            self._asked = self._stages.begin_one(self._top, call, preview.frame, settings.rows, settings.every)
            if self._readers is not None:
                self._readers.request_previews(
                    sorted(set(preview.numbers)), settings.rows, settings.every, preview.take
                )
            self._preview, self._answer, self._began, self._due = preview, None, now, now + _EVERY

    def _copy(self, preview: PipelinePreview, tick: int, step: Step | None) -> None:
        if step is not None and tick in preview.numbers:
            preview.take(preview_of(tick, step, self._settings.rows, self._settings.every))

    def _ask(self, preview: PipelinePreview, now: float) -> None:
        """Ask the top stage for its output once it can have it, and again until it has."""
        if now - self._began > self._patience:  # the stages have ended a phase early, or are slow
            self._preview = None
        elif self._answer is not None:
            self._take(preview, self._answer, now)
        elif preview.complete and self._asked is not None and self._asked.done and now >= self._next:
            self._asked.answers()
            self._answer = self._stages.begin_one(self._top, StageCalls.sampled_output)

    def _take(self, preview: PipelinePreview, answer: Pending[OutputSample | None], now: float) -> None:
        if not answer.done:
            return
        self._answer, self._next = None, now + _ASK_EVERY
        [sample] = answer.answers()
        if sample is None:
            return
        self._preview = None
        if sample.frame == preview.frame:
            preview.output = sample.rows
            self._shown = preview
        else:
            self._lead = min(2 * self._lead, _LONGEST_LEAD)
