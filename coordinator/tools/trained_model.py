"""Opens a trained model for use, from a run directory or from a file written by `sideways export`.

The metadata of a .safetensors file describes the model, so that `build` can rebuild it; .pt2 and .onnx files have the
whole program.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.config.run_file import parse
from common.config.settings import Answer, Config, Data
from common.errors import ConfigError, SidewaysError
from common.models import build
from common.rule.inference import Inference
from common.rule.memories import Memories
from common.rule.packet import Packet
from common.rule.pixels import Normaliser
from common.rule.reference import stages_from
from common.rule.skips import SKIPS, WholeClips
from common.rule.stage import Stage
from common.rule.tasks import without_loss
from common.rule.tasks.frame_targets import FrameTargets
from common.rule.tasks.task import Task
from coordinator.run_directory import MODEL
from coordinator.tools.onnx_model import OnnxModel

ABOUT = "sideways.json"  # file in a .pt2 archive with the metadata of a .safetensors file
_ONE_CLIP = np.zeros(1, np.int64)
WHOLE_CLIPS = "whole_clips"  # key of that metadata if the program takes the frames of a clip, in order
_KEYS = ("model", "model_args", "task", "classes", "data")


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in evaluation mode on the CPU.

    Attributes:
        path: of the model's file.
        module: normalised frames, float32 [n, channels, height, width] → logits [n, classes], numbers or frames.
        task: what it was trained for.
        classes: names of the classes, or of a label's numbers.
        data: size, resize, channels, bits, mean, std, stride and fps of the frames that it was trained on; the other
            settings have their defaults.
        ahead: how many frames ahead the model predicts; 0 unless the task is "predict".
        about: the file's metadata, all values text.
        answer: what a clip's answer is.
        stages: of a model with skips, whose module takes the frames of one clip, in order; else empty.
    """

    path: Path
    module: nn.Module
    task: Task
    classes: list[str]
    data: Data
    ahead: int
    about: dict[str, str]
    answer: Answer = "mean"
    stages: Sequence[Stage] = ()

    @cached_property
    def memories(self) -> Memories:
        """Of the module's blocks that remember earlier frames."""
        return self.module.memories if isinstance(self.module, OnnxModel) else Memories(self.module)

    @property
    def has_labels(self) -> bool:
        """Whether it was trained for labels, not frames."""
        return not isinstance(self.task, FrameTargets)

    @property
    def delay(self) -> int:
        """How many frames later a stream's output comes: not 0 only with skips."""
        return self.stages[0].config.ticks_to_top if self.stages else 0

    def __call__(self, frames: Tensor) -> Tensor:
        """uint8 frames [n, channels, height, width], each the first of a clip → the module's output. Not with skips."""
        assert not self.stages, "a module with skips takes the frames of one clip"
        return self.run(self.normalised(frames))

    def run(self, x: Tensor) -> Tensor:
        """Normalised frames → the module's output."""
        with torch.no_grad():
            y: Tensor = self.module(x)
        return y

    def in_order(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Normalised consecutive frames of one clip, in chunks → the module's outputs for them, in other chunks."""
        if WHOLE_CLIPS in self.about:
            clip = list(chunks)
            return map(self.run, [torch.cat(clip)] if clip else [])
        if not self.memories and not self.stages:
            return map(self.run, chunks)
        return self.play((_ONE_CLIP, frame[None]) for chunk in chunks for frame in chunk)

    def play(self, batches: Iterable[tuple[NDArray[np.int64], Tensor]]) -> Iterator[Tensor]:
        """Frame batches, one frame of each slot, with its clip → the module's output for each batch, in order.

        With skips, an output comes only once later batches have been read.
        """
        stream = Stream(self)
        for clips, x in batches:
            if (y := stream.step(clips, x)) is not None:
                yield y
        yield from stream.rest()

    def normalised(self, frames: Tensor) -> Tensor:
        """uint8 frames [n, channels, height, width] → normalised frames, float32, as the module expects."""
        x = torch.empty(frames.shape)
        Normaliser(*self.data.normalisation)(x, frames)
        return x


class Stream:
    """Frame batches of one stream through a model, one at a time, which remember those before.

    A model has one stream at a time: its memories are in its blocks. A new one begins with empty memories.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self._trained, self._number = trained, 0
        self._memories = [stage.memories for stage in trained.stages] or [trained.memories]
        self._inference: Inference | None = None
        for memories in self._memories:
            memories.clear()

    def step(self, clips: NDArray[np.int64], x: Tensor) -> Tensor | None:
        """The output for a batch, or, of a model with skips, for that `TrainedModel.delay` batches before.

        Args:
            clips: clip id of each row, int64 [rows].
            x: normalised frames, one of each clip, float32 [rows, channels, height, width].

        Returns:
            [rows, …], valid until the next step; None while there is none.
        """
        number, self._number = self._number, self._number + 1
        if self._trained.stages:
            return self._tick(clips, x, number)
        if self._trained.memories:
            self._trained.memories.begin(clips, number, x.device)
        return self._trained.run(x)

    def rest(self) -> Iterator[Tensor]:
        """The outputs for the batches for which `step` has returned none yet. No step may follow."""
        if self._inference is None:
            return
        for _ in range(self._inference.delay):
            if (result := self._inference.drain()) is not None:
                yield result[1]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Set the memories aside, so that another stream can run inside this context. With skips, it keeps its own."""
        for memories in self._memories:
            memories.set_aside()
        try:
            yield
        finally:
            for memories in self._memories:
                memories.put_back()

    def _tick(self, clips: NDArray[np.int64], x: Tensor, number: int) -> Tensor | None:
        self._inference = self._inference or Inference(self._trained.stages, x.shape)
        packet = Packet(x.shape, tensor=x)
        packet.set_header(number - 1, number)
        packet.clips[:] = clips
        result = self._inference.tick(packet)
        return result[1] if result is not None else None


def open_model(path: Path) -> TrainedModel:
    """Open a run directory, a .safetensors, a .pt2 or an .onnx file.

    Raises:
        SidewaysError: there is no such file, it is damaged, or its metadata is missing or unknown.
        ConfigError: the file has another suffix, or the user's own model definition is missing or no longer fits the
            weights, or onnxruntime is not installed.
    """
    stages: Sequence[Stage] = ()
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise SidewaysError(
            f"{file} does not exist: pass a run directory, such as runs/digits-…, that has saved its model, or a file "
            f"written by `sideways export`"
        )
    if file.suffix == ".pt2":
        module, about = _read_program(file)
    elif file.suffix == ".onnx":
        module = program = OnnxModel(file)
        about = program.about
    elif file.suffix == ".safetensors":
        tensors, about = read_tensors(file)
        module, stages = _rebuild(file, tensors, about)
    else:
        raise ConfigError(
            f"{file}: a model is a run directory, a .safetensors, a .pt2 or an .onnx file; if this is one of them, "
            "rename it"
        )
    config = _config(file, about)
    ahead = config.ahead if config.task == "predict" else 0
    classes = json.loads(about["classes"])
    task = without_loss(config, len(classes))
    return TrainedModel(file, module, task, classes, config.data, ahead, about, config.answer, stages)


def refuse_whole_clips(trained: TrainedModel) -> None:
    """Raise ConfigError for a program that takes whole clips, where frames come one at a time, or of several clips."""
    if WHOLE_CLIPS in trained.about:
        raise ConfigError(
            f"{trained.path} takes the frames of a whole clip at once, as its model remembers earlier frames or has "
            "skips: use the run directory or a .safetensors file here"
        )


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file by name, and its metadata. Raises SidewaysError if it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SidewaysError(f"{file} is damaged ({error}): export or train again") from None


def _read_program(file: Path) -> tuple[nn.Module, dict[str, str]]:
    found = {ABOUT: ""}
    if not zipfile.is_zipfile(file):  # torch would print a traceback
        raise SidewaysError(f"{file} is not a program that `sideways export` wrote, or it is cut short")
    try:
        program = torch.export.load(file, extra_files=found)
        return program.module(), dict(json.loads(found[ABOUT] or "{}"))
    except Exception as error:  # errors of zip, JSON or torch: all mean that it cannot be loaded
        raise SidewaysError(f"{file} is not a program that torch {torch.__version__} can load ({error})") from None


def _rebuild(file: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> tuple[nn.Module, Sequence[Stage]]:
    """The module, and its stages if it has skips."""
    config = _config(file, about)
    model = build(config, len(json.loads(about["classes"])))
    try:
        if config.skip_pairs:
            return _with_skips(model, config, tensors)
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            f"{file} does not fit model = {config.model!r} with model_args = {config.model_args}: has the model's file "
            f"been changed since? {error}"
        ) from None
    return model.eval(), ()


def _with_skips(model: nn.Sequential, config: Config, tensors: dict[str, Tensor]) -> tuple[nn.Module, list[Stage]]:
    """Raises RuntimeError if the tensors do not fit."""
    skips = {name: value for name, value in tensors.items() if name.startswith(SKIPS)}
    model.load_state_dict({name: value for name, value in tensors.items() if name not in skips})
    stages = stages_from(model.eval(), config, 1, 1)
    merges = [stage.merge for stage in stages]
    for merge in merges:
        if merge is not None:
            merge.load_state_dict({name: value for name, value in skips.items() if name in merge.state_dict()})
    return WholeClips([stage.blocks for stage in stages], merges, config).eval(), stages


def _config(file: Path, about: dict[str, str]) -> Config:
    """The settings given by the metadata. The others are meaningless defaults. Raises SidewaysError."""
    if missing := [key for key in _KEYS if key not in about]:
        raise SidewaysError(f"{file} lacks the metadata {', '.join(missing)}: it was not written by sideways")
    try:
        data = {**json.loads(about["data"]), "train": "."}
        tree = {"model": about["model"], "model_args": json.loads(about["model_args"]), "task": about["task"]}
        tree["ahead"] = int(about.get("ahead", "1"))
        tree["val_metrics"] = json.loads(about.get("val_metrics", "[]"))
        tree["answer"] = json.loads(about.get("answer", '"mean"'))
        tree |= json.loads(about.get("pipeline", '{"stages": 1}'))
        if not isinstance(json.loads(about["classes"]), list):
            raise ValueError("its classes are not a list")
        return parse({**tree, "ticks": 1, "data": data}, str(file))
    except (ValueError, TypeError, ConfigError) as error:
        raise SidewaysError(f"{file} has metadata that this version does not know: {error}") from None
