"""Videos whose frames encode their numbers, and frames played from them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from common.config.settings import Data
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.decoder_pool.shared_ring import chunk_of
from coordinator.video.files.clips import Clip
from coordinator.video.slots import Slots
from tests.support.videos import video_stream

Array = np.ndarray[Any, Any]

AUGMENTED: dict[str, Any] = {  # every augmentation switched on
    "scale": (0.3, 0.9),
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.2,
    "flip": 0.5,
}


def write_levels(
    path: Path, times: list[int], pix_fmt: str = "yuv420p", codec: str = "libx264", rate: int = 100, keys: int = 250
) -> Path:
    """Write a video whose frame n has a uniform level of 3 (n mod 60) + 40 and is shown at times[n] / 100 s."""
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, rate, options={"crf": "1", "g": str(keys), "x264-params": "open-gop=1"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, pix_fmt
        stream.codec_context.time_base = Fraction(1, 100)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), number % 60 * 3 + 40, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def played(clips: list[Clip], data: Data, ticks: int, **options: Any) -> tuple[list[Array], list[list[int]], Slots]:
    """Play some ticks. Returns their frames and clip ids, and the closed slots."""
    slots, batch = (
        Slots(Job(clips, data, 5, train=True), **options),
        Batch((data.slots, data.channels, *data.shape)),
    )
    frames, ids = [], []
    for _ in range(ticks):
        assert slots.fill(batch)
        frames.append(batch.frames.copy())
        ids.append(batch.clips.tolist())
    slots.close()
    return frames, ids, slots


CHUNK = chunk_of(Data(train=Path(), slots=2, size=16), in_use=9)


def by_player(job: Job, slot: int, frames: int) -> Array:
    """The first frames of a slot, played by a ClipPlayer in this process."""
    room = np.zeros((CHUNK, job.data.channels, *job.data.shape), np.uint8)
    seen: list[Array] = []
    for chunk in ClipPlayer(job, lambda *_: None).chunks(slot, 0, lambda: room):
        seen.extend(room[: chunk.frames].copy())
        if len(seen) >= frames:
            break
    return np.array(seen[:frames])
