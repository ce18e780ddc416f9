"""When the frames of a data set's clips are shown."""

from collections.abc import Sequence
from functools import partial

from common.config.settings import Data
from coordinator.video.decoding.media_info import MediaInfo
from coordinator.video.decoding.opening import ASSUMED_RATE
from coordinator.video.decoding.timeline import Timeline, read_frame_times
from coordinator.video.files.listing import Entry
from coordinator.video.files.shards import opened_video


def timeline_of(entry: Entry, info: MediaInfo, data: Data) -> Timeline:
    """When the frames of a clip's file are shown: exactly, also at a variable rate."""
    return Timeline(info.rate or ASSUMED_RATE, partial(_frame_times, entry, data) if info.variable else None)


def _frame_times(entry: Entry, data: Data) -> Sequence[float]:
    if entry.member is None:
        return read_frame_times(entry.path)
    with opened_video(entry.member, data) as path:
        return read_frame_times(path)
