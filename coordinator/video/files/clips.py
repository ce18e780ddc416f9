"""The clips of a data set: the videos that it names, probed before the run."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from common.config.settings import OWN_DATASET, Data, TaskName
from common.errors import ConfigError, DataError
from common.rule.label_form import ONE_CLASS, LabelForm
from coordinator.video.decoding.media_info import MediaInfo, read_frame_folder_info, read_media_info
from coordinator.video.decoding.resample import CLOSE
from coordinator.video.decoding.timeline import Timeline
from coordinator.video.files import segments
from coordinator.video.files.dataset_formats import in_quarantine, listing, quarantined
from coordinator.video.files.label_source import LabelSource, label_source, labels_from_format
from coordinator.video.files.labels import FrameLabels, Label, Vocabulary, classes_in
from coordinator.video.files.listing import Entry
from coordinator.video.files.own_clips import own_listing
from coordinator.video.files.own_dataset import Item
from coordinator.video.files.shards import Member
from coordinator.video.files.timelines import timeline_of
from coordinator.video.files.video_folders import SUFFIXES, too_high

_NOTES = 5  # files whose notes are reported one by one


@dataclass(frozen=True)
class Clip:
    """A video file, a folder of frames, or an item of a user's dataset.

    Attributes:
        path: the file or folder.
        label: its class, classes or numbers, or those of each of its frames after sampling.
        frames: number of frames after sampling, according to the container; not counted by decoding.
        pictures: for a folder of frames, how many the list names, before sampling; None for a video.
        first: for a segment of a video, the number of the file's frame (with `data.fps`: of the instant) with which it
            begins; it ends after `frames`. None: all of the file is played.
        item: of a user's dataset, which `path` only names; None for files.
        member: where it is in a shard; `path` only names it.
    """

    path: Path
    label: Label
    frames: int
    pictures: int | None = None
    first: int | None = None
    item: Item | None = None
    member: Member | None = None


@dataclass
class Clips:
    """The readable clips of a data set.

    Attributes:
        root: the folder or list that names them.
        classes: names of the classes, or of a label's numbers.
        clips: the readable clips, in a fixed order.
        bad: files that cannot be read, with the reason.
        quarantined: number of files left out because they are in quarantine.
        notes: messages for the user: what else was left out or chosen.
        form: of a row's label.
        task: what labels are for.
        part: "train" or "val".
    """

    root: Path | str
    classes: list[str]
    clips: list[Clip]
    bad: dict[Path, str] = field(default_factory=dict)
    quarantined: int = 0
    notes: list[str] = field(default_factory=list)
    form: LabelForm = ONE_CLASS
    task: TaskName = "classify"
    part: str = "train"

    @property
    def used(self) -> Counter[int]:
        """The number of clips of each class that has any."""
        return Counter(number for clip in self.clips for number in classes_in(clip.label, self.task))

    @property
    def frames(self) -> int:
        """Total frames of all clips, after sampling."""
        return sum(clip.frames for clip in self.clips)

    def warnings(self, mismatch: int) -> list[str]:
        """Warnings for the user before training. `mismatch` is that of the bottom stage, in frames."""
        notes = [f"{path} cannot be read and is left out: {reason}" for path, reason in list(self.bad.items())[:10]]
        if len(self.bad) > 10:
            notes.append(f"… and {len(self.bad) - 10} more files in {self.root} cannot be read")
        if self.quarantined:
            notes.append(f"{self.quarantined} files in {self.root} are quarantined and left out")
        notes += self.notes
        notes += self._rare_classes()
        short = sum(clip.frames <= mismatch for clip in self.clips)
        if short:
            notes.append(
                f"{short} of {len(self.clips)} clips in {self.root} have at most {mismatch} frames: with "
                f'boundary = "gate" their gradients never reach the bottom stage; use fewer stages or a smaller stride'
            )
        return notes

    def _rare_classes(self) -> list[str]:
        counts = self.used
        if not counts:
            return []
        single = [name for number, name in enumerate(self.classes) if counts[number] == 1]
        empty = [name for number, name in enumerate(self.classes) if counts[number] == 0]
        notes = []
        if single and not any(isinstance(clip.label, FrameLabels) for clip in self.clips):
            notes.append(f"only one clip in {self.root} for {_some(single)}: the model can hardly learn such a class")
        if empty:
            numbered = self.part == "train" and self.classes == [str(number) for number in range(len(self.classes))]
            why = (
                f": numeric labels make every number up to {self.classes[-1]} a class, so if there are fewer, correct "
                f"the labels or number them anew"
            )
            notes.append(f"no readable clip in {self.root} for {_some(empty)}" + (why if numbered else ""))
        return notes


def find(
    root: Path | str, include: str, stride: int, labelled: bool = True, classes: Sequence[str] | None = None
) -> Clips:
    """`collect` the training clips, with all other settings at their defaults."""
    return collect(Data(train=root, train_include=include, stride=stride), "train", labelled, classes)


def collect(
    data: Data,
    part: str,
    labelled: bool = True,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
    task: TaskName = "classify",
) -> Clips:
    """Find and probe the clips of a data set, in a fixed order. Live sources have none.

    Args:
        part: "train" or "val".
        labelled: whether labels are needed; without them all clips are of one class, and folders may have any layout.
        classes: class names to use; by default the format's own, or all labels in alphabetical order.
        allow_empty: do not raise if there are videos but none can be read.
        task: what labels are for.

    Raises:
        DataError: there is no such data set, no video, none that can be read, or a class that is not among `classes`;
            or a label is missing or malformed.
        ConfigError: labels are needed, but `data.sources` have none.
    """
    if part == "train" and data.sources:
        return _sources(data, labelled)
    root = data.train if part == "train" else data.val
    assert root is not None
    include = data.train_include if part == "train" else data.val_include
    own, of_format = OWN_DATASET.fullmatch(str(root)), labels_from_format(data, part, labelled)
    listed = own_listing(str(root), part, data, of_format, task) if own else listing(data, part, of_format, task)
    entries = [entry for entry in listed.entries if fnmatch(entry.name, include)]
    if not entries and not listed.bad:
        raise DataError(_nothing(root, include, labelled, listed.notes))
    if not entries or labels_from_format(data, part, task == "classify") or not labelled:
        source: LabelSource = _Classes(root, entries, classes or (listed.classes if labelled else None))
    else:
        source = label_source(data, part, entries, task, classes, listed.classes)
    if entries:
        _check_flip(data, task, source.vocabulary)
    left_out = quarantined(data.quarantine)
    kept = [entry for entry in entries if in_quarantine(entry.path) not in left_out]
    clips, bad, notes = _probe_all(kept, source, data)
    bad = listed.bad | bad
    if not clips and not allow_empty:
        first = "; ".join(f"the first: {path}: {why}" for path, why in list(bad.items())[:1])
        total = len(entries) + len(listed.bad)
        why = first or "; ".join(notes[:1]) or "all are quarantined"
        raise DataError(f"none of the {total} videos in {root} can be {'read' if first else 'played'}; {why}")
    names, quarantine = list(source.vocabulary.names), len(entries) - len(kept)
    notes = listed.notes + source.notes + notes
    return Clips(root, names, clips, bad, quarantine, notes, source.vocabulary.form, task, part)


def _check_flip(data: Data, task: TaskName, vocabulary: Vocabulary) -> None:
    count = len(vocabulary.names)
    if task == "regress" and max(data.flip_targets or [0]) >= count:
        raise ConfigError(
            f"data.flip_targets = {data.flip_targets}, but there are {count} numbers ({_some(vocabulary.names)}), "
            f"counted from 0"
        )


class _Classes:
    """The classes of a data set's own format."""

    def __init__(self, root: Path | str, entries: Sequence[Entry], classes: Sequence[str] | None) -> None:
        found = {entry.label for entry in entries}
        names = list(classes or sorted(found))
        self.vocabulary, question = Vocabulary("classify", names), too_high(names)
        self.notes = [f"the classes in {root} are named {_some(names)}: {question}"] if question else []
        if unknown := sorted(found - set(names)):
            raise DataError(
                f"{root} has classes that the training clips lack: {_some(unknown)}. Those have "
                f"{_some(names)}: {question or 'name the classes alike in both'}"
            )

    def label(self, entry: Entry, info: MediaInfo, timeline: Timeline) -> Label:
        """The class of a clip."""
        return self.vocabulary.index(entry.label, entry.name)


def _probe_all(entries: list[Entry], source: LabelSource, data: Data) -> tuple[list[Clip], dict[Path, str], list[str]]:
    """The clips, the unreadable files with their reasons, and notes about the other files."""
    clips, bad, notes = list[Clip](), dict[Path, str](), list[str]()
    with ThreadPoolExecutor() as pool:
        files = {(entry.path, entry.frames): entry for entry in entries}  # once each, also if it has many segments
        outcomes = dict(zip(files, pool.map(partial(_probe, data=data), files.values()), strict=True))
    about = [(path, found) for (path, _), found in outcomes.items() if isinstance(found, MediaInfo)]
    notes += [*_narrowed([found for _, found in about], data), *(f"{at}: {it.note}" for at, it in about if it.note)]
    timelines: dict[Path, Timeline] = {}  # each is read once at most, also if its file has many segments
    for entry in entries:
        outcome = outcomes[entry.path, entry.frames]
        if isinstance(outcome, str):
            bad[entry.path] = outcome
            continue
        timeline = timelines.setdefault(entry.path, timeline_of(entry, outcome, data))
        clip = _clip(entry, source, outcome, timeline, data)
        if isinstance(clip, Clip):
            clips.append(clip)
        else:  # there is nothing wrong with the file
            notes.append(f"{entry.path}: {clip}: left out")
    more = [f"… and {len(notes) - _NOTES} more files like that"] if len(notes) > _NOTES else []
    return clips, bad, notes[:_NOTES] + more


def _narrowed(about: Sequence[MediaInfo], data: Data) -> list[str]:
    deep = sum(found.deep for found in about)
    if data.bits == 16 or not deep:
        return []
    return [
        f"{deep} of {len(about)} videos have grey pixels of more than 8 bits, of which only the upper 8 are played: to "
        f"keep all, set data.channels = 1 and data.bits = 16"
    ]


def _clip(entry: Entry, source: LabelSource, found: MediaInfo, timeline: Timeline, data: Data) -> Clip | str:
    place = None if entry.segment is None else segments.frames_of(entry.segment, found, timeline, data)
    if isinstance(place, str):
        return place
    label = source.label(entry, found, timeline)
    if isinstance(label, FrameLabels):
        label = _played(label, place[0] if place else 0, timeline, data)
    if place is None:
        return Clip(entry.path, label, sampled(found, data), entry.frames, item=entry.item, member=entry.member)
    return Clip(entry.path, label, place[1], first=place[0])


def _played(labels: FrameLabels, first: int, timeline: Timeline, data: Data) -> FrameLabels:
    """The labels of the frames that are played, from the file's frame, or with data.fps instant, `first` on."""
    if data.fps is None:
        return labels.after(first).sampled(data.stride)
    return labels.moved((timeline.seconds_at(labels.starts) - CLOSE) * data.fps).after(first)


def _probe(entry: Entry, data: Data) -> MediaInfo | str:
    if entry.about is not None:
        return entry.about
    if entry.frames is None:
        return read_media_info(entry.path)
    if data.fps:
        return "folders of frames have no timestamps: use data.stride instead of data.fps"
    return read_frame_folder_info(entry.path, data.frame_files, entry.frames)


def sampled(found: MediaInfo, data: Data) -> int:
    """Number of frames of a file after sampling by `data.stride` or `data.fps`."""
    return max(1, round(found.seconds * data.fps)) if data.fps else -(-found.frames // data.stride)


def _sources(data: Data, labelled: bool) -> Clips:
    if labelled:
        raise ConfigError('data.sources have no labels: set task = "autoencode" or "predict", or use data.train')
    if data.live:
        return Clips(Path("data.sources"), ["video"], [])
    entries = [Entry(source, Path(source), "video") for source in data.sources]
    clips, bad, notes = _probe_all(entries, _Classes(Path("data.sources"), entries, None), data)
    if bad:
        path, why = next(iter(bad.items()))
        raise DataError(f"data.sources: {path} cannot be read: {why}")
    return Clips(Path("data.sources"), ["video"], clips, notes=notes)


def _nothing(root: Path | str, include: str, labelled: bool, notes: list[str]) -> str:
    layout = f"{root}/<class>/<clip>" if labelled else "files"
    matching = "" if include == "*" else f" and a path matching {include!r}"
    expected = f"expected {layout} with one of the suffixes {', '.join(sorted(SUFFIXES))}{matching}"
    return f"no videos in {root}: {'; '.join([expected, *notes])}. Folders of frames need a list (docs/data.md)"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
