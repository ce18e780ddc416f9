"""Which parts of a clip one playing shows: all of it, a window, or several windows spread over it.

Several windows are those of temporal segment networks (Wang et al., ECCV 2016): n equal parts, one window of each.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int | None]  # the first frame, and how many; None: all that follow


def snippets(frames: int, window: int, count: int, random: np.random.Generator | None) -> list[Span]:
    """A window of each of `count` equal parts of a clip: at a random place, or in the middle without `random`.

    A part shorter than the window is played whole.
    """
    bounds = [number * frames // count for number in range(count + 1)]
    spans: list[Span] = []
    for first, end in pairwise(bounds):
        spare = max(0, end - first - window)
        place = spare // 2 if random is None else int(random.integers(0, spare + 1))
        if end > first:
            spans.append((first + place, min(window, end - first)))
    return spans or [(0, None)]


def numbers(spans: Sequence[Span], done: int, count: int) -> NDArray[np.int64]:
    """The numbers of the `count` frames of the spans that follow the first `done`."""
    parts = [np.arange(0)]
    for first, length in after(spans, done):
        parts.append(np.arange(first, first + (count if length is None else min(length, count))))
        count -= len(parts[-1])
    return np.concatenate(parts)


def after(spans: Sequence[Span], done: int) -> Iterator[Span]:
    """What remains of the spans after `done` frames."""
    for first, length in spans:
        used = done if length is None else min(done, length)
        done -= used
        if length is None or used < length:
            yield first + used, None if length is None else length - used
