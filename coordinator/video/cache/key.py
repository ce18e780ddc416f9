"""The key of a clip's decoded frames: a digest of everything that determines them.

Files are told apart by path, size and time of modification, as by rsync and make. FFmpeg's conversion gives other
pixels on other processors, so the key includes the processor's features: a folder may be shared by several machines.
"""

import hashlib
import json
import os
import platform
from functools import cache, lru_cache
from pathlib import Path

import av

from common.config.settings import MEMORY, Data
from common.errors import DataError, SidewaysError
from coordinator.video.decoding import reader
from coordinator.video.files.clips import Clip
from coordinator.video.files.own_dataset import Item, opened


def key_of(clip: Clip, data: Data) -> bytes | None:
    """32 bytes; None if the file cannot be found, or it is not known what determines the frames."""
    try:
        settings = [data.stride, data.fps, data.short_side, data.channels, data.bits]
        segment = None if clip.first is None else [clip.first, clip.frames]
        parts = [str(clip.path.absolute()), clip.pictures, segment, _state(clip, data), settings, _decoder()]
    except (OSError, SidewaysError):
        return None
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _state(clip: Clip, data: Data) -> object:
    """What tells the clip from others: size and time of modification, of the file or of each picture of a folder."""
    if clip.item is not None:
        return _version(clip.item, data)
    if clip.member is not None:
        return [clip.member.shard.digest, clip.member.offset, clip.member.size]
    found = os.stat(clip.path)
    if clip.pictures is None:
        return [found.st_size, found.st_mtime_ns]
    return _pictures(clip.path, data.frame_files, clip.pictures, found.st_mtime_ns)


def _version(item: Item, data: Data) -> object:
    """What the user's dataset says about its frames; in a folder they outlive the run, so it must say something."""
    version = opened(item.dataset).optional("version")
    if version is None and data.cache != MEMORY:
        raise DataError(f"{item.dataset} has no version")
    return str(version)


@cache
def _pictures(folder: Path, pattern: str, listed: int, changed: int) -> str:
    """A digest of the pictures' states, once per process and change of the folder: there may be thousands."""
    states = [(file.name, os.stat(file)) for file in reader.frame_files(folder, pattern, listed)]
    text = json.dumps([[name, state.st_size, state.st_mtime_ns] for name, state in states])
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def _decoder() -> list[object]:
    """Versions of our code and of the libraries that decode and resize, and the processor's features."""
    return [_code(), av.__version__, sorted(av.library_versions.items()), platform.machine(), _features()]


def _code() -> str:
    """A digest of our decoding: a version number would have to be raised by hand, and be forgotten once."""
    sources = sorted(Path(reader.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
