"""`sideways.load`: a trained model for clips, arrays of frames and streams."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.config.settings import Answer
from common.errors import ConfigError, DataError, SidewaysError
from common.rule.clip_sums import frames_replaced
from coordinator.python.frames import clip_of, pixels
from coordinator.run_directory import model_of
from coordinator.tools.predict import clip_scores, refuse_other_tasks
from coordinator.tools.trained_model import Stream, TrainedModel, open_model, refuse_whole_clips
from coordinator.video.decoding.augment import middle
from coordinator.video.live import newest_frames

Frames = NDArray[Any] | Tensor
_CHUNK = 16  # frames


def load(path: str | Path, best: bool = False) -> "Model":
    """Load a trained model, on the CPU and in evaluation mode.

    Args:
        path: run directory, or a .safetensors, .pt2 or .onnx file written by `sideways export`.
        best: of a run directory, the model of its best evaluation (the setting checkpoint.best), not the newest.

    Raises:
        SidewaysError: there is no such file, or it is damaged; or the run has kept no best model.
        ConfigError: the file has another suffix, or the model's own file is missing or does not fit.
    """
    return Model(open_model(model_of(Path(path), best) if best else Path(path)))


class Model(nn.Module):
    """A trained model.

    Attributes:
        module: the plain model, with the tensors' names of the run.
        classes: names of the classes, or of a label's numbers.
        task: "classify", "multilabel", "regress", "autoencode" or "predict".
        fps: frames a second of the clips that it was trained on; None: every frame of the files, or every `stride`-th.
            `predict` plays a file or a live source so; arrays and `step` play every frame that they are given.
        stride: as `data.stride`; 1 with `fps`.
        delay: how many steps later `step` returns a frame's output; not 0 only with skips.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.module, self.classes, self.task = trained.module, trained.classes, trained.task.name
        self.delay, self._trained = trained.delay, trained
        self.fps, self.stride = trained.data.fps, trained.data.stride
        self._stream: Stream | None = None
        for module in self.modules():
            module.training = False  # eval() would do, but programs refuse it

    def train(self, mode: bool = True) -> "Model":
        """As of any module, but a program, of a .pt2 or an .onnx file, stays in evaluation mode."""
        self.training = mode and not self._is_program
        if not self._is_program:
            self.module.train(mode)
        return self

    @property
    def _is_program(self) -> bool:
        return self._trained.path.suffix in (".pt2", ".onnx")

    def forward(self, x: Tensor) -> Tensor:
        """What `transform` returns, float32 [n, channels, height, width] → logits [n, classes], or frames.

        With blocks that remember, each frame is the first of a clip; with skips, they are the frames of one clip.
        """
        y: Tensor = self.module(x)
        return y

    def transform(self, frames: Frames) -> Tensor:
        """Frames as the module expects them: resized, the middle cropped, normalised.

        Args:
            frames: uint8 [n, height, width, channels], or one frame, [height, width, channels] or grey [height, width].
                Channels: 3 (RGB) or 1 (grey). Grey frames may also be uint16.

        Returns:
            float32 [n, channels, height, width].

        Raises:
            DataError: they are no such frames.
        """
        data = self._trained.data
        return self._cropped(pixels(frames, data.short_side, data.channels, data.bits))

    def predict(self, source: str | Path | Frames) -> "Prediction":
        """Classify a clip, or a live source frame by frame.

        Args:
            source: a video file or a folder of frames, played at the model's stride or rate; frames as for `transform`,
                all played, so sample them at the model's `fps` or `stride`; or a live source, such as rtsp://… or
                /dev/video0, always its newest frame.

        Returns:
            The scores. Those of a live source come as they are iterated over, without end: it is open until the loop
            ends. Meanwhile, `step` must not be used.

        Raises:
            ConfigError: the model's outputs are frames, or the source is live and the model a program of whole clips.
            DataError: the source cannot be read.
        """
        refuse_other_tasks(self._trained)
        if isinstance(source, str | Path) and _is_live(source):
            refuse_whole_clips(self._trained)
            return Prediction(self.classes, self._trained.answer, live=lambda: self._live_scores(str(source)))
        try:
            with self._stream.aside() if self._stream is not None else nullcontext():
                scores = [row for chunk in self._scores(source) for row in chunk]
        except SidewaysError as error:
            raise error from None  # the reader's own reason is in its text
        return Prediction(self.classes, self._trained.answer, scores)

    def step(self, frame: Frames) -> Tensor | None:
        """Continue a stream with its next frame, which sees what the model remembers of those before.

        Args:
            frame: one frame, as for `transform`, at the model's `fps` or `stride`.

        Returns:
            Scores of the classes, or numbers, float64 [classes], else a frame, float32 [channels, height, width].
            With skips, those of `delay` frames before, and None while there are none.

        Raises:
            DataError: it is no frame.
        """
        x = self.transform(frame)
        if len(x) != 1:
            raise DataError(f"step takes one frame at a time, not {len(x)}: pass a clip to predict")
        return self._step(0, x)

    def finish(self) -> list[Tensor]:
        """End the stream. Returns what `step` has not returned yet, of the last `delay` frames."""
        stream, self._stream = self._stream, None
        return [self._output(y) for y in stream.rest()] if stream is not None else []

    def _step(self, clip: int, x: Tensor) -> Tensor | None:
        if self._stream is None:
            refuse_whole_clips(self._trained)
            self._stream = Stream(self._trained)
        y = self._stream.step(np.array([clip]), x)
        return self._output(y) if y is not None else None

    def _output(self, y: Tensor) -> Tensor:
        return self._trained.task.answers(y)[0] if self._trained.has_labels else y[0].clone()

    def _cropped(self, frames: NDArray[Any]) -> Tensor:
        """[n, channels, height, width] → float32 [n, channels, *shape]."""
        return self._trained.normalised(torch.from_numpy(middle(frames, self._trained.data.size)(frames)))

    def _scores(self, source: str | Path | Frames) -> Iterator[Tensor]:
        if isinstance(source, str | Path):
            return clip_scores(self._trained, Path(source))
        clip = clip_of(source)
        chunks = (clip[start : start + _CHUNK] for start in range(0, len(clip), _CHUNK))
        return map(self._trained.task.answers, self._trained.in_order(map(self.transform, chunks)))

    def _live_scores(self, source: str) -> Generator[Tensor]:
        self._stream = None
        try:
            for connection, frame in newest_frames(source, self._trained.data):
                if (scores := self._step(connection, self._cropped(frame))) is not None:
                    yield scores
        finally:
            self._stream = None


class Prediction:
    """The scores of a source, an iterable of the frames' scores, float64 [classes] each.

    Attributes:
        classes: names of the classes.
    """

    def __init__(
        self,
        classes: list[str],
        answer: Answer,
        scores: Sequence[Tensor] = (),
        live: Callable[[], Generator[Tensor]] | None = None,
    ) -> None:
        """`live`: opens a live source, which then gives the scores."""
        self.classes = classes
        self._answer_begins, self._scores, self._live = frames_replaced(answer), scores, live
        self._begin()
        for row in scores:
            self._add(row)

    def __iter__(self) -> Iterator[Tensor]:
        if self._live is None:
            yield from self._scores
            return
        self._begin()
        with closing(self._live()) as scores:
            for row in scores:
                self._add(row)
                yield row

    def __repr__(self) -> str:
        if self._live is not None:
            return f"Prediction(live, {self._count} frames so far)"
        best = ", ".join(f"{name} {value:.3f}" for name, value in self.top(3))
        return f"Prediction({best}{', …' if len(self.classes) > 3 else ''}; frames: {self._count})"

    @property
    def scores(self) -> Tensor:
        """Of all frames, float64 [frames, classes]. Raises ConfigError for a live source, which has no end."""
        if self._live is not None:
            raise ConfigError("a live source has no end: iterate over its scores")
        return torch.stack(list(self._scores))

    @property
    def answer(self) -> Tensor:
        """The clip's scores, as the setting `answer` of the run defines them, float64 [classes]; if live, so far."""
        return self._total / max(1, self._counted)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The best classes of the clip with their scores, best first."""
        values, indices = self.answer.topk(min(count, len(self.classes)))
        return [(self.classes[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]

    def _begin(self) -> None:
        self._count, self._counted, self._total = 0, 0, torch.zeros(len(self.classes), dtype=torch.float64)

    def _add(self, row: Tensor) -> None:
        self._count += 1
        adds = self._count > self._answer_begins
        self._total, self._counted = (self._total + row, self._counted + 1) if adds else (row, 1)


def _is_live(source: str | Path) -> bool:
    return "://" in str(source) or Path(source).is_char_device()
