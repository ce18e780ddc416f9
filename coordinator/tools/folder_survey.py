"""What a folder or list of videos holds: its parts, classes, lengths and sizes. Metadata, and a few decoded frames."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from common.config.settings import Data, TaskName
from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo, read_frame_folder_info, read_media_info
from coordinator.video.decoding.reader import pixels
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip, Clips, collect
from coordinator.video.files.shards import opened_video
from coordinator.video.files.video_folders import TRAIN_FOLDERS, VAL_FOLDERS

_LOOKED_AT, _DECODED = 200, 8  # clips whose metadata, and whose first frames, are looked at
_GREY = 3  # levels by which colours differ in grey pictures, at most


@dataclass(frozen=True)
class FolderSurvey:
    """What was found.

    Attributes:
        train, val: folders of clips, or a list; val is None if there is none of its own.
        task: "classify" if there are classes of several clips, as folders below or in the list, else "autoencode".
        lengths: frames of each clip that can be read.
        width, height: medians, in pixels.
        rate: median, in frames per second.
        grey: whether the frames have no colour.
        deep: whether they are grey and have more than 8 bits a pixel.
        notes: what else the user should know, such as files that cannot be read.
    """

    train: Path
    val: Path | None
    task: TaskName
    classes: Sequence[str]
    lengths: Sequence[int]
    width: int
    height: int
    rate: float
    grey: bool
    deep: bool = False
    notes: Sequence[str] = field(default_factory=list)


def survey(folder: Path) -> FolderSurvey:
    """Look at a folder or list. Raises DataError if it holds no video that can be read."""
    train, val = _parts(folder)
    task, clips = _clips(train)
    notes = clips.warnings(mismatch=0)
    if val is not None and (reason := _unusable(val, task, clips)):
        val = None
        notes.append(f"not used for validation: {reason}")
    found = [info for clip in _some(clips.clips, _LOOKED_AT) if isinstance(info := _about(clip), MediaInfo)]
    if not found:
        raise DataError(f"none of the first videos in {train} can be read: {_about(clips.clips[0])}")
    return FolderSurvey(
        train,
        val,
        task,
        clips.classes if task == "classify" else [],
        [clip.frames for clip in clips.clips],
        round(median(info.width for info in found)),
        round(median(info.height for info in found)),
        round(median(info.rate for info in found), 2),
        all(_is_grey(clip) for clip in _some(clips.clips, _DECODED)),
        all(info.deep for info in found),
        notes,
    )


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The training and the validation clips: folders, or a list of training clips."""
    if folder.is_file():
        return folder, None
    if not folder.is_dir():
        raise DataError(f"there is no folder or list {folder}")
    below = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    train = next((below[name] for name in TRAIN_FOLDERS if name in below), None)
    val = next((below[name] for name in VAL_FOLDERS if name in below), None)
    return (train, val) if train is not None else (folder, None)


def _clips(train: Path) -> tuple[TaskName, Clips]:
    """With classes if there are several, with mostly more than one clip each; else without."""
    notes = []
    try:
        clips = collect(Data(train=train), "train")
        if 1 < len(clips.used) <= len(clips.clips) / 2:
            return "classify", clips
    except DataError as error:
        if train.is_file():
            notes.append(f"no classes are read from the list: {error}")
    clips = collect(Data(train=train), "train", labelled=False)
    clips.notes += notes
    return "autoencode", clips


def _unusable(val: Path, task: TaskName, train: Clips) -> str:
    """Why the clips of `val` cannot be used to evaluate; empty if they can."""
    try:
        collect(Data(train=train.root, val=val), "val", task == "classify", train.classes)
    except DataError as error:
        return str(error)
    return ""


def _some(clips: Sequence[Clip], most: int) -> Sequence[Clip]:
    """At most so many clips, evenly spread."""
    return clips[:: -(-len(clips) // most)]


def _about(clip: Clip) -> MediaInfo | str:
    if clip.pictures is not None:
        return read_frame_folder_info(clip.path, "*", clip.pictures)
    if clip.member is None:
        return read_media_info(clip.path)
    with opened_video(clip.member, Data(train=clip.path)) as path:
        return read_media_info(path)


def _is_grey(clip: Clip) -> bool:
    try:
        colours = next(pixels(decode_clip(clip, Data(train=clip.path, size=64), limit=1)))[0].astype(int)
    except (DataError, StopIteration):
        return True  # the run will say so
    return int((colours.max(0) - colours.min(0)).max()) <= _GREY
