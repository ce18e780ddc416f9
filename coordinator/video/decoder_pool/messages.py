"""Messages between a decoder process and the coordinator, over a pipe of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from coordinator.video.decoding.augment import Colours
from coordinator.video.files.labels import ChunkLabel


class Filled(NamedTuple):
    """From `tick` on a slot plays `frames` frames of entry `clip`, which follow the first `before` ones.

    `label`: of all of them, or an array with one for each. `colours`: by which the first stage is to jitter them.
    """

    slot: int
    tick: int
    clip: int
    label: ChunkLabel
    before: int
    frames: int
    colours: Colours


class Ended(NamedTuple):
    """A slot has nothing more to play; `failure` is the reason if that is an error."""

    slot: int
    failure: str = ""


class ClipError(NamedTuple):
    """A playback error to be counted: see `PlaybackErrors.add`."""

    kind: str
    reason: str


class FileStarted(NamedTuple):
    """A slot starts playing a file, which is blamed if the process dies while it decodes for that slot."""

    slot: int
    path: Path


class Heartbeat(NamedTuple):
    """Heartbeat: the process is skipping many frames and is not stuck."""


class Notice(NamedTuple):
    """A message for the user."""

    text: str


Message = Filled | Ended | ClipError | FileStarted | Heartbeat | Notice


class SlotStart(NamedTuple):
    """Where a process begins to decode a slot: at a tick, with an entry without its first `done` frames."""

    slot: int
    tick: int
    entry: int
    done: int


def next_slot(ticks: Mapping[int, int], end: int) -> int | None:
    """The slot that a process decodes next: the one that is least far ahead; None if all have reached tick `end`.

    `ticks`: of the next frame, by slots that have not ended.
    """
    slot = min(ticks, key=lambda slot: ticks[slot], default=None)
    return slot if slot is not None and ticks[slot] < end else None
