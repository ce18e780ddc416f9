"""WebDataset shards as a data set: a tar file, a range or folder of them, or a list of these."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.files.listed_labels import text_of
from coordinator.video.files.listing import Entry, Listing, lines_of, numbered, stay_inside
from coordinator.video.files.shards import Member, expand, read_shards
from coordinator.video.files.video_folders import SUFFIXES

_NO_LABEL = 'it has no label: neither .cls nor "label" in .json'


def list_shards(source: Path | str, data: Data, labelled: bool, classes: bool) -> Listing:
    """The clips of a shard, of a range or folder of shards, or of a list of these. Raises DataError."""
    if isinstance(source, Path) and source.suffix == ".txt":
        videos, lines = data.videos or source.parent, [line for _, line in lines_of(source)]
        for line in lines:
            if "://" not in line:
                stay_inside(Entry(line, videos / line, ""), source, videos)
        names = [line if "://" in line else str(videos / line) for line in lines]
    else:
        folder = isinstance(source, Path) and source.is_dir()
        names = sorted(map(str, Path(source).glob("*.tar"))) if folder else [str(source)]
    entries: list[Entry] = []
    bad: dict[Path, str] = {}
    for contents in read_shards([address for name in names for address in expand(name)], data, SUFFIXES):
        shard = contents.shard
        bad |= {Path(shard.address): contents.failure} if contents.failure else {}
        for sample in contents.samples:
            path = Path(f"{shard.address}/{sample.name}")  # also if its name is absolute
            missing = labelled and sample.label in (None, "") and isinstance(sample.about, MediaInfo)
            about = _NO_LABEL if missing else sample.about
            if isinstance(about, str):
                bad[path] = about
                continue
            member = Member(shard, sample.offset, sample.size)
            try:
                label = _text(sample.label, classes, sample.name) if labelled else "video"
            except DataError as error:
                bad[path] = str(error)
                continue
            named = Entry(str(path), path, label, where=str(path), member=member, about=about)
            entries.append(replace(named, content=sample.label if data.labels_of == "frames" else None))
    found = numbered(entries, Path(source), "sample", classes) if entries else Listing([])
    return replace(found, bad=bad)


def _text(label: Any, one: bool, where: str) -> str:
    if one and not isinstance(label, str):
        raise DataError(
            f"{where}: its label is {label!r}, but must be the number or the name of one class; for lists set task = "
            '"multilabel" or "regress", or data.labels_of = "frames"'
        )
    return text_of(label, where)
