"""Files of different frame rates play at one rate: at each instant k / fps the newest frame, by the timestamps."""

from collections.abc import Iterator
from fractions import Fraction

import av

CLOSE = 1e-6  # seconds by which timestamps may be rounded
LONGEST_GAP = 10.0  # seconds between frames; more is a broken timestamp, and would repeat a frame for ever


def resample(
    frames: Iterator[av.VideoFrame],
    fps: float,
    rate: Fraction | None,
    origin: float | None = None,
    number: int = 0,
) -> Iterator[av.VideoFrame]:
    """Frames number, number + 1, … of a file played at `fps` frames a second.

    Args:
        rate: the file's own, for frames without a timestamp and for how long the last is shown.
        origin: the time of the file's first frame in seconds; default: that of the first of `frames`.

    Raises:
        ValueError: the timestamps jump.
    """
    step = 1 / float(rate or 25)
    held, now = None, 0.0
    for frame in frames:
        time = now + step if frame.time is None else frame.time
        if held is not None:
            time = max(time, now)  # going back is taken as no time
            if time - now > LONGEST_GAP:
                raise ValueError(f"its timestamps jump by {time - now:.0f} s")
        origin = time if origin is None else origin
        while held is not None and origin + number / fps < time - CLOSE:
            yield held
            number += 1
        held, now = frame, time
    while held is not None and origin is not None and origin + number / fps < now + step - CLOSE:
        yield held
        number += 1
