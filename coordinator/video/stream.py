"""The interface of all streams of frames, from files or from live sources."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from common.rule.label_form import LabelForm
from coordinator.video.batch import Batch

Places = list[tuple[int, int]]  # per slot: the entry (clip id) that it plays, and how many of its frames were played

_REASONS_KEPT = 20


@dataclass
class PlaybackErrors:
    """Counts of playback errors, with the first 20 different reasons. Thread-safe.

    Attributes:
        warn: called with messages for the user that are due at once; each may come several times.
    """

    skipped: int = 0
    broken: int = 0
    damaged: int = 0
    short: int = 0
    dropped: int = 0
    reconnects: int = 0
    reasons: list[str] = field(default_factory=list)
    warn: Callable[[str], None] = field(default=lambda text: None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, reason: str = "", times: int = 1) -> None:
        """Add to a count and keep the reason.

        Args:
            kind: for clips, `skipped` (nothing decoded), `broken` (ended early), `damaged` (undecodable packets) or
                `short` (no longer than the mismatch); for live sources, `dropped` (frames) or `reconnects`.
            reason: for the user; may be empty.
            times: the number to add.
        """
        with self._lock:
            setattr(self, kind, getattr(self, kind) + times)
        self.note(reason)

    def note(self, reason: str) -> None:
        """Keep a reason, if it is new and fewer than 20 are kept."""
        with self._lock:
            if reason and reason not in self.reasons and len(self.reasons) < _REASONS_KEPT:
                self.reasons.append(reason)


class Stream(Protocol):
    """B slots, each of which delivers one frame per `fill`. Attributes: errors; form, of the labels."""

    errors: PlaybackErrors
    form: LabelForm

    def fill(self, batch: Batch) -> bool:
        """Take the next frame of every slot. Rows of slots that have run out get zeros, the clip id -1 and no label.

        Args:
            batch: its frames are written, or become a view of memory that the stream will reuse.

        Returns:
            False, with nothing changed, when every slot has run out.

        Raises:
            DataError: nothing can be decoded, or no frame has arrived for too long.
        """

    def places(self) -> Places:
        """Per slot the clip id that it plays, and how many of the clip's frames `fill` has handed out."""

    def close(self) -> None:
        """Stop decoding."""
