"""`sideways predict --source`: the class of a live source's newest frame, each time that it changes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.errors import ConfigError, SidewaysError
from coordinator.python.model import Model, Prediction
from coordinator.tools.trained_model import TrainedModel

_DEVICES = "/dev/"


@dataclass(frozen=True)
class Change:
    """A frame whose best class is another than that of the frame before it.

    Attributes:
        seconds: since the first frame was classified.
        frame: its number among the frames that were classified, from 0.
        name: of the best class.
        score: of that class.
    """

    seconds: float
    frame: int
    name: str
    score: float

    def __str__(self) -> str:
        return f"{self.seconds:8.2f} s  {self.score:.3f}  {self.name}"

    def tree(self) -> dict[str, Any]:
        """The same for --json."""
        values = asdict(self)
        return {"class": values.pop("name"), **values, "seconds": round(self.seconds, 3), "score": round(self.score, 6)}


def watch(trained: TrainedModel, source: str, kind: str | None, options: dict[str, str]) -> Prediction:
    """The scores of a live source, to iterate over.

    Args:
        source: an address (rtsp://…, udp://…, http://…) or a device (/dev/video0).
        kind: its FFmpeg format; None to detect it.
        options: FFmpeg options.

    Raises:
        ConfigError: it is neither, or the model does not classify single frames in order.
    """
    if "://" not in source and not source.startswith(_DEVICES):
        raise ConfigError(f"--source {source} is no address (rtsp://…) and no device (/dev/video0): pass it as a video")
    if not trained.task.has_classes:
        raise ConfigError(f"{trained.path} outputs {trained.task.name!r}, not classes: predict videos, or use Python")
    data = trained.data.model_copy(update={"source_format": kind, "source_options": options})
    return Model(replace(trained, data=data)).predict(source)


def changes(
    prediction: Prediction, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Change]:
    """The first frame, and each whose best class is another than before; for so many seconds, or without end.

    Raises:
        DataError: the source has delivered no frame for a minute.
        SidewaysError: the outputs are not finite.
    """
    best, start = -1, None
    for number, scores in enumerate(prediction):
        now = clock()
        start = now if start is None else start
        if seconds is not None and now - start >= seconds:
            return
        if not scores.isfinite().all():
            raise SidewaysError(
                "the model gives outputs that are not finite numbers: its training has diverged; take an earlier model "
                "of the run"
            )
        score, found = scores.max(0)
        if int(found) != best:
            best = int(found)
            yield Change(now - start, number, prediction.classes[best], float(score))
