"""Folders of videos: a class is a folder."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from common.errors import DataError
from coordinator.video.files.listing import Entry, Listing

_SUFFIXES = (
    ".3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mjpeg "
    ".mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv "
    ".y4m"
)
SUFFIXES = set(_SUFFIXES.split())
TRAIN_FOLDERS, VAL_FOLDERS = ("train", "training"), ("val", "valid", "validation", "test", "testing", "eval")
_SYSTEM = {"__macosx", "lost+found", "$recycle.bin", "#recycle", "@recycle", "@eadir", "system volume information"}


def list_folder(root: Path, labelled: bool) -> Listing:
    """The videos of root/<class>/; without labels those anywhere below. Raises DataError."""
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: set data.train and data.val to folders or lists of videos")
    videos, others = below(root)
    files = [path for path in videos if not labelled or path.parent != root]
    names = [path.relative_to(root) for path in files]
    labels = [name.parts[0] if labelled else "video" for name in names]
    found = zip(names, files, labels, strict=True)
    entries = [Entry(name.as_posix(), path, label) for name, path, label in found]
    return Listing(entries, notes=[*_others(root, others), *(_no_class(root, videos, entries) if labelled else [])])


def videos_below(root: Path) -> list[Path]:
    """All video files below a folder, symbolic links followed, sorted by path."""
    return below(root)[0]


def below(root: Path) -> tuple[list[Path], Counter[str]]:
    """The video files, and a count of other files per suffix. Hidden and system files are in neither."""
    found, others, visited = [], Counter[str](), set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # visited before: a link may form a cycle
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not hidden(name))  # the first of two links counts
        for name in names:
            path = Path(folder, name)
            if not hidden(name) and path.is_file():
                if path.suffix.lower() in SUFFIXES:
                    found.append(path)
                else:
                    others[path.suffix.lower() or "without suffix"] += 1
    return sorted(found), others


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden or of the system, judging by its name: .Trash-1000, ._clip.mp4, __MACOSX."""
    return name.startswith(".") or name.lower() in _SYSTEM


def too_high(classes: Collection[str]) -> str:
    """A question, if classes are named like the parts of a data set; else empty."""
    training = [name for name in classes if name.lower() in TRAIN_FOLDERS]
    if not training or not all(name.lower() in (*TRAIN_FOLDERS, *VAL_FOLDERS) for name in classes):
        return ""
    return f"is data.train one folder too high? Set it to the folder {training[0]} in there"


def _others(root: Path, others: "Counter[str]") -> list[str]:
    if not others:
        return []
    shown = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
    return [f"{others.total()} files in {root} do not have the suffix of a video and are left out: {shown}"]


def _no_class(root: Path, videos: list[Path], entries: list[Entry]) -> list[str]:
    """Notes about videos in no class folder, and about class folders without videos."""
    loose = [path for path in videos if path.parent == root]
    notes = [f"{len(loose)} videos are in {root} itself, not in a class folder, and are left out"] if loose else []
    classes = {entry.label for entry in entries}
    empty = sorted(path.name for path in root.iterdir() if path.is_dir() and not hidden(path.name))
    empty = [name for name in empty if name not in classes]
    return notes + (
        [f"no video in the folders {', '.join(empty[:5])} of {root}: they are not classes"] if empty else []
    )
