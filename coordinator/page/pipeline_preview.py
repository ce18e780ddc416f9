"""A preview of the pipeline: pictures of the frames that the stages hold at a tick, and what the top stage says."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from common.config.settings import Config
from common.rule.pixels import Normaliser
from common.rule.schedule import schedule_of
from common.rule.tasks import without_loss
from coordinator.video.preview import Preview

_ROWS, _SIDE = 4, 64  # slots that are shown, and pixels of a picture's longer side, at most
_NUMBERS = 3  # of a label, or classes, that are named at most


class PreviewSettings:
    """How the previews of a run are taken.

    Attributes:
        rows: number of slots that are shown, the first ones of replica 0.
        every: of a frame, every so many-th row and column of pixels is shown.
        ticks: ticks from a frame's entry until each stage holds it.
    """

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        """`classes`: their names, or those of a label's numbers."""
        self.config, self.classes, self.task = config, classes, without_loss(config, len(classes))
        self.rows = min(_ROWS, config.data.slots // config.replicas // config.micro_batch_count)
        self.every = -(-max(config.data.shape) // _SIDE)
        schedule = schedule_of(config)
        self.ticks = [schedule.first_input(stage) for stage in range(config.stages)]

    def pixels(self, rows: Tensor) -> NDArray[Any]:
        """Normalised pictures as uint8."""
        found: NDArray[Any] = Normaliser(*self.config.data.normalisation).to_pixels(rows).numpy()
        return found


class PipelinePreview:
    """Of the tick at which the top stage holds `frame`.

    Attributes:
        frame: the frame's number.
        tick: the tick's number.
        numbers: of the frames that the stages hold.
        output: what the top stage gave for that frame, float32 [rows, …]; None until it is known.
    """

    def __init__(self, settings: PreviewSettings, frame: int) -> None:
        self.frame, self.tick = frame, frame + settings.ticks[-1]
        self.output: Tensor | None = None
        self._settings = settings
        self.numbers = [self.tick - ticks for ticks in settings.ticks]
        self._held: dict[int, Preview] = {}  # by their numbers

    def take(self, seen: Preview) -> None:
        """Add one of its frames."""
        self._held[seen.frame] = seen

    @property
    def complete(self) -> bool:
        """Whether all its frames were added."""
        return all(number in self._held for number in self.numbers)

    def to_json(self) -> bytes:
        """The body of /api/frames; docs/watching.md describes it."""
        assert self.output is not None
        height, width = self._held[self.frame].pictures.shape[2:]
        held = {number: [_encoded(picture) for picture in seen.pictures] for number, seen in self._held.items()}
        answer = {
            "tick": self.tick,
            "width": width,
            "height": height,
            "stages": [{"frame": number, "pictures": held[number]} for number in self.numbers],
            "answers": self._pictured(self.output) if self.output.dim() == 4 else self._named(self.output),
        }
        return json.dumps(answer).encode()

    def _pictured(self, output: Tensor) -> list[dict[str, Any]]:
        """The top stage's pictures, and those that it should give, if they are not the ones that it holds."""
        given = [{"output": _encoded(picture)} for picture in self._settings.pixels(output)]
        own = self._held[self.frame]
        if own.targets is None:
            return given
        return [
            {**row, "target": _encoded(target) if known else None}
            for row, target, known in zip(given, own.targets, own.known, strict=True)
        ]

    def _named(self, output: Tensor) -> list[dict[str, Any]]:
        """The class, or the numbers, that the top stage says, with its confidence; and what is true, if it is known."""
        task, labels = self._settings.task, self._held[self.frame].labels
        answers, known = task.answers(output).numpy(), task.form.known(labels)
        return [
            {
                **self._said(answer),
                "truth": self._truth(label) if is_known else None,
                "right": self._right(answer, label) if is_known else None,
            }
            for answer, label, is_known in zip(answers, labels, known, strict=True)
        ]

    def _said(self, answer: NDArray[np.float64]) -> dict[str, Any]:
        if self._settings.task.name == "regress":
            return {"says": _numbers(answer), "confidence": None}
        best = int(answer.argmax())
        return {"says": self._name(best), "confidence": round(float(answer[best]), 4)}

    def _right(self, answer: NDArray[np.float64], label: Any) -> bool | None:
        """Whether the class that the top stage says is the clip's, or one of them; None for numbers."""
        if self._settings.task.name == "regress":
            return None
        best = int(answer.argmax())
        if self._settings.task.name == "multilabel":
            return best < len(label) and bool(label[best])
        return best == int(label)

    def _truth(self, label: Any) -> str:
        if self._settings.task.name == "regress":
            return _numbers(label)
        if self._settings.task.name == "multilabel":
            return ", ".join(self._name(int(number)) for number in np.flatnonzero(label)[:_NUMBERS])
        return self._name(int(label))

    def _name(self, number: int) -> str:
        """Of a class; a model may have outputs for more classes than the data."""
        return self._settings.classes[number] if number < len(self._settings.classes) else str(number)


def _encoded(picture: NDArray[Any]) -> str:
    """A picture [channels, height, width] as base64 of its bytes, pixel after pixel, each with all its channels."""
    if picture.dtype != np.uint8:
        picture = (picture >> 8).astype(np.uint8)
    return base64.b64encode(picture.transpose(1, 2, 0).tobytes()).decode()


def _numbers(values: NDArray[Any]) -> str:
    more = " …" if len(values) > _NUMBERS else ""
    return ", ".join(f"{value:.3g}" for value in values[:_NUMBERS]) + more
