"""The data sets of a run: finds their clips, opens streams for training and evaluation, and reports playback errors."""

import hashlib
import json
from collections.abc import Callable
from os.path import realpath
from typing import Any

from common.config.settings import Config
from common.processes.deadlines import for_sources
from common.rule.label_form import LabelForm
from common.rule.schedule import schedule_of
from coordinator.video.cache.place import CachePlace, place_of
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.pool import Waiting
from coordinator.video.files.clips import Clip, Clips, collect
from coordinator.video.files.labels import described
from coordinator.video.files.play_order import exceed_cache
from coordinator.video.live import Live
from coordinator.video.slots import Slots
from coordinator.video.stream import Places, PlaybackErrors, Stream
from coordinator.video.targets import batches_ahead

Warn = Callable[[str], None]


class Datasets:
    """The training and validation clips of a run.

    Attributes:
        train, val: the clips; `val` is None without `data.val`.
        fingerprint: SHA-256 of what determines the play order; a stream's places are valid only under the same one.
    """

    def __init__(
        self, config: Config, warn: Warn, on_wait: Callable[[], None], is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Find and probe the clips, and warn about them.

        Args:
            warn: called with each warning.
            on_wait: called while a stream waits for frames; may raise.
            is_stopping: returns whether the run is about to end, so that it does not wait for live sources.

        Raises:
            DataError, ConfigError: as `collect` and `place_of`.
        """
        self._is_stopping = is_stopping
        self._config, self._warn, self._on_wait = config, warn, on_wait
        data, labelled, task = config.data, config.has_labels, config.task
        self.train, self.val = collect(data, "train", labelled, task=task), None
        if data.val:
            self.val = collect(data, "val", labelled, self.train.classes, task=task)
        self.fingerprint = self._fingerprint()
        self._errors: list[PlaybackErrors] = []
        self._warned: set[str] = set()
        self._cache = place_of(config.data)
        self._evaluation: Slots | None = None  # its processes are kept, as it takes long to start them
        for clips in self._both:
            for text in clips.warnings(_mismatch(config) if clips is self.train else 0):
                warn(text)
        if self.val is not None and (text := _shared(self.train, self.val)):
            warn(text)

    @property
    def total_ticks(self) -> int:
        """Planned number of training ticks: `ticks`, or else what `epochs` amounts to."""
        config = self._config
        return config.ticks or max(1, round((config.epochs or 0) * self.train.frames / config.data.slots))

    def open_training(self, start: Places | None, config: Config) -> Stream:
        """Open the training stream, from its beginning or from the places of an earlier one.

        `config`: with what was measured.
        """
        if config.data.live:
            patience = for_sources(config.network.deadline)
            return self._opened(Live(config.data, config.seed, patience, self._on_wait, start, self._is_stopping))
        slots = training_slots(self.train.clips, self.train.form, config, self._on_wait, start, self._cache)
        return self._opened(slots)

    def open_evaluation(self) -> Stream:
        """A stream that plays every validation clip once. The one before must have ended: its processes go on."""
        assert self.val is not None
        if self._evaluation is not None:
            self._evaluation.rewind()
            return self._evaluation
        config, val = self._config, self.val
        ahead = batches_ahead(config, ends=True)
        job = Job(val.clips, config.data, config.seed, train=False, cache=self._cache, ahead=ahead)
        self._evaluation = Slots(job, val.form, waiting=Waiting(config.network.deadline, self._on_wait))
        return self._opened(self._evaluation)

    def close(self) -> None:
        """End the processes that are kept for evaluations."""
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    def watch(self, errors: PlaybackErrors) -> None:
        """Count these playback errors, too, and pass on their warnings."""
        errors.warn = self._warn_once
        self._errors.append(errors)

    def _opened(self, stream: Stream) -> Stream:
        self.watch(stream.errors)
        return stream

    def _warn_once(self, text: str) -> None:
        """Several processes may have the same to say."""
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)

    @property
    def _both(self) -> list[Clips]:
        return [clips for clips in (self.train, self.val) if clips is not None]

    def _fingerprint(self) -> str:
        sampling = self._config.data.model_dump(
            mode="json", include={"stride", "fps", "window", "snippets", "sources", "loop", "balance"}
        )
        if exceed_cache(self.train.clips, self._config.data):
            sampling["shard_cache_size"] = self._config.data.shard_cache_size
        clips = [[clip.path.name, described(clip.label), *_segment(clip)] for clip in self.train.clips]
        return hashlib.sha256(json.dumps([clips, sampling, self._config.seed]).encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """Counts of unreadable files and playback errors, for the run's summary."""
        counts: dict[str, Any] = {
            "unreadable_files": sum(len(clips.bad) for clips in self._both),
            "quarantined_files": sum(clips.quarantined for clips in self._both),
        }
        counts |= {f"{kind}_clips": self.count(kind) for kind in ("skipped", "broken", "damaged", "short")}
        if self._config.data.live:
            counts |= {"dropped_frames": self.count("dropped"), "reconnects": self.count("reconnects")}
        return counts

    def warn_of_errors(self) -> None:
        """Warn about playback errors, with the first five reasons."""
        reasons = "; ".join([reason for errors in self._errors for reason in errors.reasons][:5])
        skipped, broken, damaged, reconnects = map(self.count, ("skipped", "broken", "damaged", "reconnects"))
        if skipped or broken or damaged:
            self._warn(
                f"playback errors: clips were skipped {skipped} times, ended early {broken} times, and played without "
                f"damaged packets {damaged} times: {reasons}"
            )
        if reconnects:
            self._warn(f"live sources were reconnected {reconnects} times: {reasons}")

    def count(self, kind: str) -> int:
        """How many errors of a kind occurred so far: see `PlaybackErrors.add`."""
        return sum(getattr(errors, kind) for errors in self._errors)


def training_slots(
    clips: list[Clip],
    form: LabelForm,
    config: Config,
    on_wait: Callable[[], None],
    start: Places | None,
    cache: CachePlace | None,
    share: range | None = None,
) -> Slots:
    """The training's slots, or a share of them: see `Slots`. Raises DataError."""
    mismatch, ahead = _mismatch(config), batches_ahead(config, ends=False)
    job = Job(clips, config.data, config.seed, True, mismatch=mismatch, cache=cache, share=share, ahead=ahead)
    return Slots(job, form, start, Waiting(config.network.deadline, on_wait))


def _shared(train: Clips, val: Clips) -> str:
    """A warning if validation clips are also training clips; else an empty string."""
    trained = {(realpath(clip.path), *_segment(clip)) for clip in train.clips}
    count = sum((realpath(clip.path), *_segment(clip)) in trained for clip in val.clips)
    text = f"{count} of {len(val.clips)} clips of {val.root} are also training clips: their score is too optimistic"
    return text if count else ""


def _segment(clip: Clip) -> list[int]:
    """Which part of its file it is; nothing if it is all of it."""
    return [] if clip.first is None else [clip.first, clip.frames]


def _mismatch(config: Config) -> int:
    """A clip must be longer than so many frames for any of its gradients to reach the bottom stage."""
    return schedule_of(config).mismatch(0) if config.rule.boundary == "gate" else 0
