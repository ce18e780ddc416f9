"""What a decoding process and the coordinator tell each other, over a connection that only they have."""

from pathlib import Path
from typing import NamedTuple


class Filled(NamedTuple):
    """A half of a slot holds so many frames of an entry, of which `before` came before."""

    slot: int
    half: int
    clip: int
    label: int
    before: int
    frames: int


class Ended(NamedTuple):
    """A slot has nothing more to play, or `failure` says why nothing can be."""

    slot: int
    failure: str = ""


class ClipError(NamedTuple):
    """Something could not be played as it should: see `PlaybackErrors.add`."""

    kind: str
    reason: str


class Begun(NamedTuple):
    """The file that a slot plays from now on: the culprit, should the process die while it decodes for that slot."""

    slot: int
    path: Path


class Busy(NamedTuple):
    """It skips many frames, and is not stuck."""


News = Filled | Ended | ClipError | Begun | Busy
Grant = tuple[int, int]  # a slot, and the half of it that may be overwritten
