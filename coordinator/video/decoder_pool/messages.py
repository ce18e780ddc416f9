"""Messages between a decoder process and the coordinator, over a pipe of their own."""

from pathlib import Path
from typing import NamedTuple

from coordinator.video.files.labels import ChunkLabel


class Filled(NamedTuple):
    """A half of a slot now holds `frames` frames of entry `clip`, which follow the first `before` ones.

    `label`: of all of them, or an array with one for each.
    """

    slot: int
    half: int
    clip: int
    label: ChunkLabel
    before: int
    frames: int


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
Grant = tuple[int, int]  # a slot, and the half of it that may be overwritten
