"""The stream that a run's settings ask for."""

from collections.abc import Callable, Sequence

from common.config import Data
from coordinator.stream.base import Stream
from coordinator.stream.clips import Clip
from coordinator.stream.live import Live
from coordinator.stream.slots import Slots


def open_stream(
    clips: list[Clip],
    data: Data,
    seed: int,
    train: bool,
    mismatch: int = 0,
    patience: float = 60.0,
    meanwhile: Callable[[], None] = lambda: None,
    start: Sequence[tuple[int, int]] | None = None,
) -> Stream:
    """Live sources in training where `data` names some, else the clips; the arguments are those of `Slots`."""
    if train and data.live:
        return Live(data, seed, patience, meanwhile, start)
    return Slots(clips, data, seed, train, mismatch, patience, meanwhile, start)
