"""What every stream of frames has in common, whether it comes from files or from live sources."""

import threading
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Places = list[tuple[int, int]]  # per slot: the entry that it plays, and how many of its frames are played

_REASONS_KEPT = 20


@dataclass
class PlaybackErrors:
    """What went wrong while playing, counted, with the first few reasons. Written by several threads."""

    skipped: int = 0
    broken: int = 0
    damaged: int = 0
    short: int = 0
    dropped: int = 0
    reconnects: int = 0
    reasons: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, kind: str, reason: str = "", times: int = 1) -> None:
        """Count clips as `skipped` (nothing decoded), `broken` (ended early), `short` (under the mismatch),
        frames as `dropped` (a live source's older ones), and a live source's `reconnects`.
        """
        with self._lock:
            setattr(self, kind, getattr(self, kind) + times)
        self.note(reason)

    def note(self, reason: str) -> None:
        """Keep a reason, if it is new and there is room."""
        with self._lock:
            if reason and reason not in self.reasons and len(self.reasons) < _REASONS_KEPT:
                self.reasons.append(reason)


class Stream(Protocol):
    """B slots that give one frame each, again and again."""

    errors: PlaybackErrors

    def fill(self, frames: NDArray[np.uint8], clips: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
        """Write the next frame of every slot. Rows of slots that have run out get zeros and the id -1.

        Args:
            frames: uint8 [slots, channels, size, size]; clips, labels: int64 [slots].

        Returns:
            False, with nothing written, when every slot has run out.

        Raises:
            DataError: nothing can be decoded, or nothing has come for too long.
        """

    def places(self) -> Places:
        """Of each slot the clip id that it plays and how many of its frames `fill` has handed out."""

    def close(self) -> None:
        """Stop decoding."""
