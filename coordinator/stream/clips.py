"""What there is to play: labelled folders of video files, probed before the run."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import av

from common.errors import DataError

SUFFIXES = {".mp4", ".avi", ".webm", ".mkv", ".mov"}


@dataclass(frozen=True)
class Clip:
    """A video file, its label, and its number of frames at the run's stride (the container's word, not counted)."""

    path: Path
    label: int
    frames: int


@dataclass
class Clips:
    """The readable clips of a folder, its class names, and the files that cannot be read, with their reasons."""

    root: Path
    classes: list[str]
    clips: list[Clip]
    bad: dict[Path, str] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames of all clips, at the run's stride."""
        return sum(clip.frames for clip in self.clips)

    def warnings(self, mismatch: int) -> list[str]:
        """What the user should know before training, with `mismatch` the bottom stage's, in frames."""
        notes = [f"{path} cannot be read and is left out: {reason}" for path, reason in list(self.bad.items())[:10]]
        if len(self.bad) > 10:
            notes.append(f"… and {len(self.bad) - 10} more files in {self.root} cannot be read")
        counts = Counter(clip.label for clip in self.clips)
        single = [self.classes[label] for label in range(len(self.classes)) if counts[label] == 1]
        empty = [self.classes[label] for label in range(len(self.classes)) if counts[label] == 0]
        if single:
            notes.append(f"only one clip in {self.root} for {_some(single)}: the model can hardly learn such a class")
        if empty:
            notes.append(f"no readable clip in {self.root} for {_some(empty)}")
        short = sum(clip.frames <= mismatch for clip in self.clips)
        if short:
            notes.append(
                f"{short} of {len(self.clips)} clips in {self.root} have at most {mismatch} frames: with "
                f'boundary = "gate" their gradients never reach the bottom stage; use fewer stages or a smaller stride'
            )
        return notes


def find(root: Path, include: str, stride: int, labelled: bool = True, classes: Sequence[str] | None = None) -> Clips:
    """The clips below `root`, in a fixed order.

    Args:
        include: pattern that a clip's path below the root must match.
        stride: every how many-th frame is played.
        labelled: clips lie in root/<class>/; else anywhere below the root, and are all of one class.
        classes: the labels to use; by default the folders' names in alphabetical order.

    Raises:
        DataError: there is no such folder, no video, none that can be read, or a class that is not among `classes`.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: set data.train and data.val to folders of videos")
    files = [path for path in _videos(root) if fnmatch(path.relative_to(root).as_posix(), include)]
    if labelled:
        files = [path for path in files if path.parent != root]
    if not files:
        layout = f"{root}/<class>/<clip>" if labelled else "files"
        raise DataError(
            f"no videos in {root}: expected {layout} with an ending of {', '.join(sorted(SUFFIXES))}"
            + ("" if include == "*" else f" and a path matching {include!r}")
        )
    folders = [path.relative_to(root).parts[0] if labelled else "video" for path in files]
    names = list(classes) if classes is not None else sorted(set(folders))
    if unknown := sorted(set(folders) - set(names)):
        raise DataError(f"{root} has classes that the training folder lacks: {_some(unknown)}")
    clips, bad = [], {}
    with ThreadPoolExecutor() as pool:
        for path, folder, outcome in zip(files, folders, pool.map(_count_frames, files), strict=True):
            if isinstance(outcome, int):
                clips.append(Clip(path, names.index(folder), -(-outcome // stride)))
            else:
                bad[path] = outcome
    if not clips:
        path, reason = next(iter(bad.items()))
        raise DataError(f"none of the {len(bad)} videos in {root} can be read; the first: {path}: {reason}")
    return Clips(root, names, clips, bad)


def _videos(root: Path) -> list[Path]:
    """All video files below a folder, also behind links, in a fixed order."""
    found, visited = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            subfolders.clear()
            continue
        visited.add(real)
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(path for path in found if path.is_file())


def _count_frames(path: Path) -> int | str:
    """Number of frames as the container states or implies it, or the reason why there is none."""
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        with av.open(str(path)) as container:
            if not container.streams.video:
                return "it has no video stream"
            stream = container.streams.video[0]
            if stream.frames:
                return stream.frames
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            seconds = seconds or (container.duration or 0) / av.time_base
            return max(1, round(seconds * float(stream.average_rate or 25)))
    except (av.FFmpegError, OSError, ValueError) as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
