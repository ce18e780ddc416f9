"""The clips of a user's dataset before the run: their labels and lengths, and what is wrong with them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.config.settings import Data, TaskName
from common.errors import ConfigError, DataError
from common.processes.user_errors import describe_error
from coordinator.video.decoding.array_frames import NO_TIMES, NotFrames, read_array_info
from coordinator.video.decoding.media_info import MediaInfo, read_media_info
from coordinator.video.decoding.memory_file import opened_bytes
from coordinator.video.files.listed_labels import text_of
from coordinator.video.files.listing import MOST_CLASSES, Entry, Listing
from coordinator.video.files.own_dataset import Exhausted, Item, OwnDataset

_CLIP_KEYS = ("video", "clip")  # of an item that is a mapping
Found = tuple[Item, Any, Path | MediaInfo | str]  # an item, its label, and its file, its metadata, or what is wrong


def own_listing(reference: str, part: str, data: Data, labelled: bool, task: TaskName = "classify") -> Listing:
    """List the clips of `data.train` or `data.val` (`part`: "train" or "val").

    Each item is read once, unless the dataset states labels and frames; so a dataset of frames is decoded once.

    Raises:
        ConfigError: there is no such dataset, or its order is fixed but not that of `data.balance`.
        DataError: it is empty, or a label is no class.
    """
    dataset = OwnDataset(reference, f"data.{part}")
    if dataset.in_order and data.balance and part == "train":
        raise ConfigError(
            f"data.balance needs a dataset with __len__ and __getitem__, but {reference} is an iterable, played in its "
            f"own order: leave data.balance out"
        )
    of_frames = data.labels_of == "frames"
    stated = [] if data.fps else _stated(dataset, reference, labelled or of_frames)  # a rate needs seconds, not frames
    found = stated or list(_read(dataset, reference, data))
    if not found:
        raise DataError(f"{reference} has no items: a dataset needs one for every clip")
    good = [(item, label, about) for item, label, about in found if not isinstance(about, str)]
    names, classes = _names(dataset, good, task) if labelled else (["video"] * len(good), None)
    classes = dataset.class_names() if of_frames else classes
    entries = [_entry(item, name, about) for (item, _, about), name in zip(good, names, strict=True)]
    if of_frames:
        entries = [replace(entry, content=label) for entry, (_, label, _) in zip(entries, good, strict=True)]
    bad = {Path(str(item)): about.removeprefix(f"{item}: ") for item, _, about in found if isinstance(about, str)}
    return Listing(entries, classes, bad=bad)


def content_of(item: Any) -> Any:
    """What is to be played of an item: a Path, bytes, or frames."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in _CLIP_KEYS if key in item), item)
    elif isinstance(item, tuple) and len(item) == 2:
        item = item[0]
    if isinstance(item, Mapping) and ("path" in item or "bytes" in item):  # as in `datasets` of Hugging Face
        item = item["path"] if item.get("bytes") is None else item["bytes"]
    return Path(item) if isinstance(item, str) else item


def _label_of(item: Any) -> Any:
    if isinstance(item, Mapping):
        return item.get("label")
    return item[1] if isinstance(item, tuple) and len(item) == 2 else None


def _entry(item: Item, label: str, about: Path | MediaInfo) -> Entry:
    if isinstance(about, Path):
        return Entry(str(about), about, label, where=str(item))
    return Entry(str(item), Path(str(item)), label, where=str(item), item=item, about=about)


def _names(dataset: OwnDataset, found: Sequence[Found], task: TaskName) -> tuple[list[str], list[str] | None]:
    """Each item's label as text, as lists have it, and all classes if they have an order. Raises DataError."""
    if task == "classify":
        return _classes(dataset, found)
    classes = dataset.class_names() if task == "multilabel" else None
    return [text_of(label, str(item), task, classes) for item, label, _ in found], classes


def _classes(dataset: OwnDataset, found: Sequence[Found]) -> tuple[list[str], list[str] | None]:
    """The name of each item's class, and all classes if they have an order. Raises DataError."""
    labels, classes = [_plain(label, item) for item, label, _ in found], dataset.class_names()
    if classes is None and any(isinstance(label, str) for label in labels):
        return [str(label) for label in labels], None
    if classes is None:
        last = max((label for label in labels if isinstance(label, int)), default=-1)
        classes = [str(number) for number in range(min(last, MOST_CLASSES) + 1)]
    return [_name(label, classes, item) for label, (item, _, _) in zip(labels, found, strict=True)], classes


def _plain(label: Any, item: Item) -> int | str:
    with suppress(AttributeError, TypeError, ValueError, RuntimeError):
        label = label.item()  # a scalar of numpy or torch
    if isinstance(label, str) or (isinstance(label, int) and not isinstance(label, bool)):
        return label
    raise DataError(
        f"{item}: its label is {label!r}, but must be the number or the name of its class. An item is a pair "
        f'(clip, label), or a mapping with "video" and "label"'
    )


def _name(label: int | str, classes: list[str], item: Item) -> str:
    if isinstance(label, str) and label in classes:
        return label
    if isinstance(label, int) and 0 <= label < len(classes):
        return classes[label]
    shown = ", ".join(classes[:5]) + (" …" if len(classes) > 5 else "")
    raise DataError(
        f"{item}: its label is {label!r}, but there are {len(classes)} classes, numbered from 0: {shown}. Correct the "
        f"label, or the dataset's `classes`"
    )


def _stated(dataset: OwnDataset, reference: str, labelled: bool) -> list[Found]:
    """The items of a dataset that states what must be known of them; else none."""
    lengths, labels = dataset.stated("frames"), dataset.stated("labels") if labelled else None
    if lengths is None or (labelled and labels is None):
        return []
    items = [Item(reference, number) for number in range(len(lengths))]
    infos = [MediaInfo(_length(frames, item), 0.0, 0, 0, 0.0) for frames, item in zip(lengths, items, strict=True)]
    return list(zip(items, labels or [None] * len(items), infos, strict=True))


def _length(frames: Any, item: Item) -> int:
    with suppress(TypeError, ValueError):
        if int(frames) == frames and frames > 0:
            return int(frames)
    raise DataError(f"{item}: its entry in `frames` is {frames!r}, but must be its number of frames")


def _read(dataset: OwnDataset, reference: str, data: Data) -> Iterator[Found]:
    numbers = iter(range(len(dataset))) if not dataset.in_order else iter(range(1 << 62))
    for number in numbers:
        item = Item(reference, number, dataset.in_order)
        try:
            read = dataset[number]
        except Exhausted:
            return
        except DataError as error:
            yield item, None, f"{error}{'; the iteration ends there' if dataset.in_order else ''}"
            if dataset.in_order:
                return
            continue
        yield item, _label_of(read), _about(read, dataset, data)


def _about(item: Any, dataset: OwnDataset, data: Data) -> Path | MediaInfo | str:
    try:
        content = content_of(item)
        if isinstance(content, bytes | bytearray | memoryview):
            with opened_bytes(content) as path:
                return read_media_info(path)
        if isinstance(content, Path):
            return content
        return NO_TIMES if data.fps else read_array_info(content)
    except NotFrames as error:
        return str(error)
    except (Exception, SystemExit) as error:  # of the user's code
        return describe_error(error)
