"""The frames of a clip, whatever it is: a video file, a folder of frames, an item of a user's dataset or of a shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.config.settings import Data
from common.errors import DataError, SidewaysError
from common.processes.user_errors import describe_error
from coordinator.video.decoding.array_frames import NO_TIMES, NotFrames, decode_array
from coordinator.video.decoding.memory_file import opened_bytes
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.pictures import Frames
from coordinator.video.decoding.reader import decode, frame_files
from coordinator.video.files.clips import Clip
from coordinator.video.files.own_clips import content_of
from coordinator.video.files.own_dataset import Item, opened
from coordinator.video.files.shards import opened_video


def decode_clip(
    clip: Clip,
    data: Data,
    skip: int = 0,
    limit: int | None = None,
    damage: Damage | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Frames:
    """Decode a clip's frames as the settings sample and resize them. The arguments are those of `decode`.

    Raises:
        DataError: nothing of it can be decoded, or decoding fails later; the frames yielded before are valid.
    """
    pixels: dict[str, Any] = {"stride": data.stride, "short_side": data.short_side, "channels": data.channels}
    pixels["bits"] = data.bits
    part: dict[str, Any] = {"skip": skip, "limit": limit, "damage": damage or Damage(), "alive": alive}
    if clip.member is not None:
        with opened_video(clip.member, data, alive) as video:
            yield from decode(video, **pixels, **part, fps=data.fps, name=str(clip.path))
        return
    if clip.item is not None:
        yield from _decode_item(clip.item, data.fps, {**pixels, **part})
        return
    if clip.first is not None:
        left = max(0, clip.frames - skip)
        part |= {"start": clip.first, "limit": left if limit is None else min(limit, left)}
    files = frame_files(clip.path, data.frame_files, clip.pictures)
    yield from decode(clip.path, **pixels, **part, fps=data.fps, frame_files=files)


def _decode_item(item: Item, fps: float | None, options: dict[str, Any]) -> Frames:
    try:
        content = content_of(opened(item.dataset)[item.number])
        if isinstance(content, Path):
            yield from decode(content, **options, fps=fps)
        elif isinstance(content, bytes | bytearray | memoryview):
            with opened_bytes(content) as path:
                yield from decode(path, **options, fps=fps, name=str(item))
        elif fps:
            raise NotFrames(NO_TIMES)
        else:
            yield from decode_array(content, **options)
    except DataError:
        raise
    except SidewaysError as error:
        raise DataError(str(error)) from error
    except NotFrames as error:
        raise DataError(f"{item}: {error}") from error
    except (Exception, SystemExit) as error:  # of the user's code
        raise DataError(f"{item}: {describe_error(error)}") from error
