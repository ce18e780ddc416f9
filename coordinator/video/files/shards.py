"""WebDataset shards: tar files with 0001.mp4 beside 0001.cls or 0001.json, on disk or wherever fsspec reads.

Members with the same name up to its first dot are one clip. Its label is the text of .cls, or "label" of .json. Videos
are not unpacked: FFmpeg reads them within the tar file. What is known of a remote shard is kept beside its copy, so
that it is not read at the start of each run.
"""

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo, read_media_info
from coordinator.video.decoding.opening import part_of
from coordinator.video.files.download_progress import DownloadProgress
from coordinator.video.files.shard_cache import check_size, folder_of, opened_shard
from coordinator.video.files.shard_index import opened_remotely, read_part_info
from coordinator.video.files.shard_source import Alive, Shard, find_shard

_BLOCK = 512  # bytes
_MOST_SHARDS = 100_000
_LONGEST_LABEL = 1 << 20  # bytes of a .cls or .json
_AT_ONCE = 4  # shards
_SMALL = 1 << 22  # bytes of a shard that is downloaded as quickly as its parts are read
_FORMAT = 4  # of the file that is kept beside a copy
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABELS = ("cls", "json")
Probe = Callable[[int, int], MediaInfo | str]  # of the video at an offset, of a size: its metadata, or what is wrong


@dataclass(frozen=True)
class Member:
    """A video within a shard: `size` bytes from `offset` on."""

    shard: Shard
    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """A clip of a shard.

    Attributes:
        name: of the video.
        label: as its .cls or .json has it; None if it has none.
        about: its metadata, or why it cannot be played.
    """

    name: str
    offset: int
    size: int
    label: Any
    about: MediaInfo | str


@dataclass(frozen=True)
class Contents:
    """The clips of a shard. `failure`: why there may have been more."""

    shard: Shard
    samples: list[Sample]
    failure: str = ""


@contextmanager
def opened_video(member: Member, data: Data, alive: Alive = lambda: None) -> Iterator[Path]:
    """What FFmpeg opens to read a video within its shard, valid meanwhile. Raises DataError."""
    with opened_shard(member.shard, data, alive) as file:
        yield part_of(Path(f"/proc/self/fd/{file}"), member.offset, member.size)


def expand(address: str) -> list[str]:
    """The shards that an address with ranges such as {000..009} stands for. Raises DataError."""
    found = _RANGE.search(address)
    if found is None:
        return [address]
    first, last = found.groups()
    if not int(first) <= int(last) < int(first) + _MOST_SHARDS:
        raise DataError(f"{address}: a range must go from a number to a larger one, over {_MOST_SHARDS} at most")
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [each for n in numbers for each in expand(address[: found.start()] + n + address[found.end() :])]


def read_shards(addresses: list[str], data: Data, suffixes: set[str]) -> Iterator[Contents]:
    """List the clips of shards, in the shards' order; `suffixes` are those of videos. Raises DataError."""
    with DownloadProgress(addresses, data) as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
        for contents in pool.map(partial(_contents, data=data, suffixes=suffixes, progress=progress), addresses):
            progress.listed()
            yield contents


def _contents(address: str, data: Data, suffixes: set[str], progress: DownloadProgress) -> Contents:
    shard = find_shard(address, data)
    known = folder_of(data) / f"{shard.digest}.json"
    if shard.remote and (found := _remembered(shard, known)):
        return found
    if shard.remote:
        check_size(shard, data)
    is_small = not shard.remote or 0 < shard.size <= _SMALL
    found = None if is_small else _read_remotely(shard, data, suffixes)
    if found is None:
        with nullcontext(_ignore) if is_small else progress.download(shard) as alive:
            found = _read_copy(shard, data, suffixes, alive)
    if shard.remote:
        tree = {"format": _FORMAT, "samples": [asdict(sample) for sample in found.samples], "failure": found.failure}
        with suppress(OSError):  # then it is read again the next time
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(tree))
    return found


def _read_remotely(shard: Shard, data: Data, suffixes: set[str]) -> Contents | None:
    """None if only whole files can be read from there."""
    try:
        with opened_remotely(shard, data) as stream:
            return read_members(shard, stream, shard.size, partial(read_part_info, stream), suffixes, remote=True)
    except Exception:  # fsspec passes on those of many libraries; a download tells what is wrong
        return None


def _ignore() -> None:
    """Show nothing."""


def _read_copy(shard: Shard, data: Data, suffixes: set[str], alive: Alive) -> Contents:
    with opened_shard(shard, data, alive) as file, open(f"/proc/self/fd/{file}", "rb") as stream:
        path = Path(f"/proc/self/fd/{file}")
        return read_members(
            shard,
            stream,
            os.fstat(file).st_size,
            lambda offset, size: read_media_info(part_of(path, offset, size)),
            suffixes,
        )


def _remembered(shard: Shard, file: Path) -> Contents | None:
    try:
        tree = json.loads(file.read_text())
        if tree["format"] != _FORMAT:
            return None
        return Contents(shard, [_sample(each) for each in tree["samples"]], tree["failure"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        return None


def _sample(tree: dict[str, Any]) -> Sample:
    about = tree.pop("about")
    return Sample(**tree, about=about if isinstance(about, str) else MediaInfo(**about))


def read_members(
    shard: Shard, stream: BinaryIO, size: int, probe: Probe, suffixes: set[str], remote: bool = False
) -> Contents:
    """List the clips of a shard of `size` bytes, which may be damaged.

    Raises whatever a `remote` stream raises.
    """
    clips: dict[str, dict[str, tarfile.TarInfo]] = {}
    failure, end = "", 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise ValueError(f"{member.name} has a negative size")
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.offset_data + member.size > size:
                    break
                key, _, kind = member.name.rpartition("/")[2].partition(".")
                if member.isreg() and kind:
                    clips.setdefault(f"{member.name.rpartition('/')[0]}/{key}".lstrip("/"), {})[kind.lower()] = member
        if end + _BLOCK > size:  # a block of zeros follows the last member
            failure = "it is cut short"
    except tarfile.TarError as error:
        failure = "it is cut short" if end else f"it is not an uncompressed tar file ({error})"
    except (ValueError, OverflowError, RecursionError) as error:  # tarfile checks little of what it reads
        if remote:
            raise
        failure = f"it is damaged ({error})"
    if failure:
        failure += f": the {len(clips)} clips before that are played; copy it again" if clips else ": copy it again"
    found = (_clip(parts, stream, probe, suffixes) for parts in clips.values())
    return Contents(shard, [sample for sample in found if sample is not None], failure)


def _clip(parts: dict[str, tarfile.TarInfo], stream: BinaryIO, probe: Probe, suffixes: set[str]) -> Sample | None:
    video = next((member for kind, member in parts.items() if f".{kind.rpartition('.')[2]}" in suffixes), None)
    if video is None:
        return None
    label, about = None, probe(video.offset_data, video.size)
    for kind in _LABELS:
        if label is None and kind in parts:
            stream.seek(parts[kind].offset_data)
            try:
                label = _label(kind, stream.read(min(parts[kind].size, _LONGEST_LABEL)))
            except (ValueError, RecursionError) as error:  # the latter from brackets in brackets in …
                about = f"its .{kind} is no label: {error}"
    return Sample(video.name, video.offset_data, video.size, label, about)


def _label(kind: str, content: bytes) -> Any:
    """Raises ValueError."""
    text = content.decode().strip()
    if kind == "cls":
        return text
    tree = json.loads(text)
    label = tree.get("label") if isinstance(tree, dict) else tree
    if isinstance(label, bool | dict):
        raise ValueError(f'"label" is {label!r}, but must be the number or the name of a class, or a list')
    return str(label) if isinstance(label, int | float) else label
