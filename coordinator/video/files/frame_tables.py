"""Labels of a clip's frames, from the rows of a table (label_tables.py)."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.decoding.timeline import Timeline
from coordinator.video.files.label_tables import FRAME, SECONDS, Row, Table, typed
from coordinator.video.files.labels import FrameLabels, Vocabulary

_ROUNDING = 1e-6  # frames
_LATE = 1.0  # seconds that a segment may end after its file, as ends are often rounded up


def frame_labels(
    table: Table,
    rows: Sequence[Row],
    vocabulary: Vocabulary,
    path: Path,
    info: MediaInfo,
    timeline: Timeline,
    count: Callable[[], int],
) -> FrameLabels:
    """The labels of a file's frames, before sampling.

    Frames that no row names have no label; with several classes, those in no segment have none of the classes.

    Args:
        rows: those of the table that are for this file.
        path, info, timeline: of the file; `count` counts its frames.

    Raises:
        DataError: a row's place or label is malformed, beyond the file's frames, or contradicts another row.
    """
    places = [_place(table, row, info, timeline) for row in rows]
    end = max([info.frames, *(end for _, end in places)])
    if end > info.frames:
        exact = count()  # containers do not always know it
        for row, (_, last) in zip(rows, places, strict=True):
            if last > exact:
                raise DataError(
                    f"{row.values.where}: frame {last - 1}, but {path} has the frames 0 … {exact - 1}: remove the line "
                    "or correct it; frames are numbered from 0, and a segment ends before its `end`"
                )
    labels = [typed(row.values, table.columns, vocabulary) for row in rows]
    several = vocabulary.task == "multilabel"
    values = vocabulary.form.empty(end)
    if several and table.place != FRAME:
        values[:] = 0
    named = np.full(end, -1)  # the row that has set a frame's label
    for number, ((first, last), label) in enumerate(zip(places, labels, strict=True)):
        frames = slice(first, last)
        if several and not rows[number].values.missing:
            values[frames] = np.fmax(values[frames], label)  # of a number and NaN, the number
        else:
            taken = named[frames][named[frames] >= 0]
            if not several and any(labels[other] != label for other in np.unique(taken)):
                other = rows[int(taken[0])].values.where.rpartition(", ")[2]
                raise DataError(
                    f"{rows[number].values.where}: it gives frames another label that {other} has labelled too: "
                    'let segments end where the next begins, or set task = "multilabel"'
                )
            values[frames], named[frames] = label, number
    return FrameLabels.of(values, vocabulary.form)


def _place(table: Table, row: Row, info: MediaInfo, timeline: Timeline) -> tuple[int, int]:
    """The first frame of a row, and the one after its last."""
    try:
        numbers = [float(text) for text in row.place]
    except ValueError:
        numbers = [math.nan]
    whole = table.place == SECONDS or all(number.is_integer() for number in numbers)
    if not all(map(math.isfinite, numbers)) or not whole or numbers[0] < 0:
        raise DataError(
            f"{row.values.where}: {', '.join(table.place)} = {', '.join(row.place)}: expected "
            f"{'seconds' if table.place == SECONDS else 'whole numbers'} from 0 on"
        )
    if table.place == FRAME:
        return int(numbers[0]), int(numbers[0]) + 1
    if numbers[1] <= numbers[0]:
        raise DataError(
            f"{row.values.where}: the segment ends at {row.place[1]}, but begins at {row.place[0]}: a segment ends "
            "after its beginning"
        )
    if table.place == SECONDS:
        return _frames(row, numbers, info, timeline)
    return int(numbers[0]), int(numbers[1])


def _frames(row: Row, seconds: Sequence[float], info: MediaInfo, timeline: Timeline) -> tuple[int, int]:
    """The frames that are shown between two instants."""
    if not info.rate:
        raise DataError(f"{row.values.where}: folders of frames have no seconds: use the columns start and end")
    first, end = (math.ceil(frame - _ROUNDING) for frame in timeline.frames_at(seconds))
    late = info.frames < end and seconds[1] <= info.seconds + _LATE
    return min(first, info.frames), info.frames if late else end
