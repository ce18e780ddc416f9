"""Every setting of a run, its default and its constraints. common/config/run_file.py reads them from a file."""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator

TaskName = Literal["classify", "multilabel", "regress", "autoencode", "predict"]
Algorithm = Literal["sideways", "backprop", "gpipe", "1f1b"]
TrackerName = Literal["wandb", "mlflow"]
EdgeTicks = Annotated[int, Field(ge=1, le=256)]
Rate = Annotated[float, Field(gt=0, le=1000)]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # as torchvision's weights expect
Answer = Literal["mean", "last"] | Annotated[int, Field(ge=1)]


def _as_size(value: object) -> object:
    """One side, or two that differ. Raises ValueError for anything else: pydantic would explain each alternative."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(side) is int and 4 <= side <= 2048 for side in sides):
        raise ValueError(
            f"data.size = {value!r} must be the side of a square, or [height, width], in pixels, each from 4 to 2048"
        )
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else value


Size = Annotated[int | tuple[int, int], BeforeValidator(_as_size)]


def source_of(text: str | Path) -> Path | str:
    """A path; or an address such as s3://…, which remains text, as a path would lose a slash."""
    return str(text) if "://" in str(text) else Path(text)


Source = Annotated[
    Path | str, BeforeValidator(lambda value: source_of(value) if isinstance(value, str | Path) else value)
]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OWN_DATASET = re.compile(r".+\.py:[^\W\d]\w*")  # data.train: path/to/file.py:name
MEMORY = "memory"  # data.cache: memory that the decoder processes share, rather than a folder


class Data(Section):
    """The videos and how the slots play them."""

    train: Source | None = Field(
        None,
        description="training clips: a folder root/<class>/<clip>, a list of clips, an official split, shards such as "
        "s3://bucket/{000..009}.tar, or path/to/file.py:name, a dataset of your own",
    )
    val: Source | None = Field(
        None, description="validation clips, in the same formats as train; default: no evaluation"
    )
    train_include: str = Field("*", description="glob pattern that a training clip's path below the root must match")
    val_include: str = Field("*", description="glob pattern that a validation clip's path below the root must match")
    format: Literal["auto", "folders", "list", "segments", "frames", "ucf101", "hmdb51", "kinetics", "shards"] = Field(
        "auto", description="format of train and val (docs/data.md); auto: detected"
    )
    videos: Path | None = Field(
        None, description="folder that listed paths are relative to and must lie in; default: the list's folder"
    )
    segment_unit: Literal["seconds", "frames"] = Field(
        "seconds", description="unit of start and end in lists of segments"
    )
    shard_cache: Path | None = Field(
        None, description="folder for local copies of remote shards, which runs may share; default: ~/.cache/sideways"
    )
    shard_cache_size: ByteSize = Field(ByteSize(64 << 30), ge=1, description="size limit of that folder")
    shard_options: dict[str, Any] = Field(
        default_factory=dict, description="arguments of fsspec's file system of the shards, such as { anon = true }"
    )
    fold: int = Field(1, ge=1, le=99, description="number of the official split of ucf101 or hmdb51")
    labels_of: Literal["clips", "frames"] = Field(
        "clips", description="frames: each frame has its own label, or none (docs/data.md)"
    )
    train_labels: Path | None = Field(
        None,
        description="labels of the training clips: a CSV file, for frames also a folder of one for each clip "
        "(docs/data.md); default: those of the data set, for frames CSV files beside the clips",
    )
    val_labels: Path | None = Field(None, description="labels of the validation clips, likewise")
    frame_files: str = Field("*", description="glob pattern of the file names in folders of frames, such as img_*")
    quarantine: Path | None = Field(None, description="list of files to leave out, from `sideways check --quarantine`")
    sources: list[str] = Field([], description="live sources instead of train, such as rtsp://…, /dev/video0, http://…")
    source_format: str | None = Field(None, description="FFmpeg format of the sources, such as v4l2; default: detected")
    source_options: dict[str, str] = Field(
        default_factory=dict, description='FFmpeg options of the sources, such as { rtsp_transport = "tcp" }'
    )
    source_timeout: float = Field(5.0, gt=0, le=600, description="seconds without a frame before reconnecting a source")
    loop: bool = Field(False, description="treat the sources as long files: play every frame, in an endless loop")
    slots: int = Field(16, ge=1, le=4096, description="number of video streams played in parallel: the batch size (B)")
    stride: int = Field(1, ge=1, description="play every stride-th frame of a clip")
    fps: float | None = Field(
        None, gt=0, le=1000, description="frames per second to play instead of stride, by the files' timestamps"
    )
    balance: bool = Field(
        False, description="play clips of every class equally often, however many it has; an epoch has as many clips"
    )
    window: int | None = Field(
        None, ge=1, description="length in frames of the random window played of a training clip; default: all"
    )
    snippets: int = Field(
        1,
        ge=1,
        le=1000,
        description="windows of each clip that are played one after another, each from one of as many equal parts of "
        "the clip; evaluation plays the middle of each",
    )
    size: Size = Field(
        64, description="frames are cropped to size × size pixels, or, if size = [height, width], to height × width"
    )
    resize: int | None = Field(
        None,
        le=8192,
        description="short side before the crop, in pixels; default: size. If size = [height, width]: short side of a "
        "rectangle of that shape, which frames are resized to cover",
    )
    channels: Literal[1, 3] = Field(3, description="1: greyscale, 3: RGB")
    bits: Literal[8, 16] = Field(
        8,
        description="bits of a pixel: 16 keeps grey pictures of more than 8 bits, such as depth or infra-red, as they "
        "are; needs channels = 1",
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability that a training clip is flipped horizontally")
    scale: tuple[float, float] | None = Field(
        None,
        description="random resized crop: smallest and largest fraction of the area; default: a crop of size × size",
    )
    ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="smallest and largest width / height of that crop, relative to those of size"
    )
    brightness: float = Field(0.0, ge=0, le=1, description="maximum brightness jitter: a random factor in 1 ± this")
    contrast: float = Field(0.0, ge=0, le=1, description="maximum contrast jitter: a random factor in 1 ± this")
    saturation: float = Field(0.0, ge=0, le=1, description="maximum saturation jitter: a random factor in 1 ± this")
    hue: float = Field(0.0, ge=0, le=0.5, description="maximum hue jitter, as a fraction of the colour circle")
    mean: float | list[float] | Literal["imagenet"] = Field(
        0.5, description="subtracted from pixel values, which are in 0 … 1: a number, one for each channel, or imagenet"
    )
    std: float | list[float] | Literal["imagenet"] = Field(
        0.25, description="pixel values are divided by this after subtracting the mean; likewise"
    )
    threads: int = Field(2, ge=1, le=64, description="files decoded at the same time, by up to twice as many processes")
    cache: str | None = Field(
        None,
        min_length=1,
        description='where decoded frames are kept for later epochs: "memory", or a folder that runs may share',
    )
    cache_size: ByteSize = Field(
        ByteSize(4 << 30), ge=1 << 20, description='size limit of that memory or folder: bytes, or text such as "8 GiB"'
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "Data":
        if self.train is None and not self.sources:
            raise ValueError(
                "data.train is missing: set it to a folder or list of videos, or data.sources to live sources"
            )
        if self.train is not None and self.sources:
            raise ValueError("data.train and data.sources exclude each other: set one of them only")
        if len(self.sources) > self.slots:
            raise ValueError(
                f"data.sources names {len(self.sources)} sources, but data.slots = {self.slots}: "
                f"a slot plays one source, so raise data.slots"
            )
        if self.loop and not self.sources:
            raise ValueError('data.loop needs data.sources, such as sources = ["long.mp4"]')
        if self.live and self.cache:
            raise ValueError("data.cache is for files, which are played again: leave it out with live sources")
        if self.live and (self.stride > 1 or self.fps or self.window):
            raise ValueError("data.stride, data.fps and data.window are for files: leave them out with live sources")
        return self

    @model_validator(mode="after")
    def _sampling(self) -> "Data":
        if self.resize is not None and self.resize < min(self.shape):
            raise ValueError(
                f"data.resize = {self.resize} is smaller than data.size = {min(self.shape)}: make it at least as large"
            )
        if self.fps is not None and self.stride > 1:
            raise ValueError("data.stride and data.fps exclude each other: leave data.stride out")
        if self.balance and (self.live or self.loop):
            raise ValueError("data.balance is for files with labels: leave it out with data.sources")
        if self.snippets > 1 and self.window is None:
            raise ValueError("data.snippets needs data.window, their length in frames")
        if self.loop and self.window:
            raise ValueError("data.window and data.loop exclude each other: a loop plays every frame")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"data.scale = {list(self.scale)} must be [smallest, largest] with 0 < smallest ≤ largest ≤ 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"data.ratio = {list(self.ratio)} must be [smallest, largest], both above 0")
        if self.channels == 1 and (self.saturation or self.hue):
            raise ValueError("data.saturation and data.hue need colour: leave them out, or set data.channels = 3")
        if self.bits == 16 and self.channels == 3:
            raise ValueError("data.bits = 16 is for grey frames: set data.channels to 1, or data.bits to 8")
        return self

    @model_validator(mode="after")
    def _statistics(self) -> "Data":
        for name, value in zip(("mean", "std"), self.normalisation, strict=True):
            values = value if isinstance(value, list) else [value] * self.channels
            if len(values) != self.channels:
                raise ValueError(
                    f"data.{name} has {len(values)} values, but data.channels = {self.channels}: give one number, or "
                    f"one for each channel"
                )
            if name == "std" and min(values) <= 0:
                raise ValueError(f"data.std = {self.std} must be above 0")
        return self

    @property
    def normalisation(self) -> tuple[float | list[float], float | list[float]]:
        """The mean and the standard deviation, of all channels or of each."""
        mean, std = self.mean, self.std
        return IMAGENET_MEAN if mean == "imagenet" else mean, IMAGENET_STD if std == "imagenet" else std

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def pixel_type(self) -> Literal["uint8", "uint16"]:
        """The type of the pixels before they are normalised."""
        return "uint8" if self.bits == 8 else "uint16"

    @property
    def short_side(self) -> int | tuple[int, int]:
        """Length of a frame's short side before the crop, in pixels; if `size` is no square, the height and width of
        the rectangle that frames are resized to cover: `size`, or larger by `resize`.
        """
        height, width = self.shape
        short = self.resize or min(height, width)
        return short if isinstance(self.size, int) else (_scaled(height, short, width), _scaled(width, short, height))

    @property
    def own(self) -> bool:
        """Whether a dataset of the user's own is read."""
        return any(OWN_DATASET.fullmatch(str(source)) for source in (self.train, self.val))

    @property
    def computes(self) -> bool:
        """Whether augmentation computes new pixel values, rather than only cropping and flipping."""
        return self.scale is not None or any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def live(self) -> bool:
        """Whether frames come from live sources, which do not wait for the pipeline."""
        return bool(self.sources) and not self.loop


def _scaled(side: int, short: int, other: int) -> int:
    """A rectangle's side once its short side is `short`."""
    return round(side * short / min(side, other))


class Rule(Section):
    """Options of the Sideways rule."""

    boundary: Literal["gate", "mix"] = Field(
        "gate", description="gate: drop gradients of another clip than the input's; mix: keep them"
    )
    every: int = Field(1, ge=1, description="ticks per parameter update, which uses the mean of their gradients")
    auxiliary: float = Field(
        0.0,
        ge=0,
        le=100,
        description="tasks with labels: initial weight of the loss of a linear layer on each stage's output; 0: off",
    )
    auxiliary_until: float = Field(
        0.5, gt=0, le=1, description="fraction of the ticks after which that weight has fallen to 0, linearly"
    )


class Optimiser(Section):
    """The optimiser, a torch.optim class.

    Gradients are delayed, so the defaults use no momentum, and a lower learning rate the larger a stage's mismatch is
    (docs/learning.md).
    """

    name: str = Field("AdamW", description="name of a class of torch.optim")
    lr: float = Field(1e-3, ge=0, description="learning rate; the maximum of the schedule")
    lr_by_mismatch: bool = Field(True, description="divide a stage's learning rate by 1 + its mismatch in frames")
    rates: dict[str, Rate] = Field(
        default_factory=dict,
        description="factors of the learning rate of parts or parameters, by patterns as in freeze, such as "
        '{ "stem" = 0.1, "layer1.*" = 0.3 }; the first pattern that matches counts',
    )
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="further arguments of the class; for Adam and AdamW, betas default to [0, 0.999]",
    )
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = Field(
        "constant", description="learning rate schedule over the planned ticks, after the warm-up"
    )
    warmup: int = Field(0, ge=0, description="ticks over which the learning rate rises linearly from 0")
    final: float = Field(0.0, ge=0, le=1, description="cosine and one-cycle: final learning rate as a fraction of lr")
    steps: list[float] = Field(
        [0.5, 0.75], description="step: fractions of the ticks after which the learning rate is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor of the learning rate at each step")
    peak: float = Field(0.3, gt=0, lt=1, description="one-cycle: fraction of the ticks at which the rate peaks")
    decay_all: bool = Field(False, description="apply weight decay to normalisation parameters and biases too")
    clip: float | None = Field(None, gt=0, description="maximum norm of a stage's gradient, for gradient clipping")
    orthogonal: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a mean of the gradients, whose direction is removed from gradients; 0: off",
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is evaluated and saved; 0: off"
    )

    @model_validator(mode="after")
    def _steps_are_fractions(self) -> "Optimiser":
        if self.steps != sorted(self.steps) or not all(0 < step < 1 for step in self.steps):
            raise ValueError(f"optimiser.steps = {self.steps} must be increasing fractions between 0 and 1")
        return self


class Probe(Section):
    """Periodic comparison of the pseudo-gradients with backpropagation's gradients."""

    every: int = Field(0, ge=0, description="ticks between probes; 0: no probes")


class Checkpoint(Section):
    """When checkpoints are taken, and how many are kept."""

    every: int = Field(1000, ge=0, description="ticks between checkpoints; 0: only when the run ends or is stopped")
    keep: int = Field(3, ge=1, le=1000, description="number of newest checkpoints to keep, besides the best")
    best: str | None = Field(
        None,
        description="figure of the evaluations whose largest value, or for errors smallest, makes a checkpoint the "
        "best, such as val_map; - before it: always the smallest; default: val_top1, val_map or val_mse",
    )


class Network(Section):
    """How the processes communicate, and how long they wait for each other."""

    deadline: float = Field(60.0, gt=0, le=3600, description="seconds a process waits for another before giving up")
    transport: Literal["auto", "gloo", "nccl", "shared"] = Field(
        "auto",
        description="auto: memory that both stages map between stages of one host (between GPUs by CUDA IPC); "
        "between hosts NCCL if all stages compute on GPUs, else gloo. Except with gloo, frames also go through shared "
        "memory if the coordinator and stage 0 are on one host",
    )
    edge_ticks: EdgeTicks | list[EdgeTicks] | Literal["auto"] = Field(
        1,
        description="ticks from sending to using between two neighbouring stages, one number or one for each edge from "
        "the bottom: as many as a slow link takes, so that no stage waits for it; auto: measured at the start. Each "
        "delays gradients (docs/scaling.md)",
    )
    wire: Literal["float32", "bfloat16", "int8"] = Field(
        "float32",
        description="format in which activations and gradients pass between stages: float32, as they were computed; "
        "bfloat16, rounded; int8, a fourth of the bytes, with error feedback. For slow links (docs/scaling.md). "
        "Evaluations pass them as computed",
    )
    max_message: int = Field(1 << 28, ge=1 << 16, description="bytes of the largest frame batch that a stage accepts")


MOST_TRACED = 10_000  # ticks


class Report(Section):
    """What the run reports, and where."""

    every: float = Field(0.5, gt=0, le=60, description="seconds between a stage's progress reports")
    losses: bool = Field(False, description="also write the loss of every tick to metrics.jsonl")
    tensorboard: bool = Field(True, description="write TensorBoard event files to the run directory")
    trackers: list[TrackerName] = Field(
        [],
        description="experiment trackers to report to, wandb or mlflow, which are extras of the package "
        "(docs/watching.md)",
    )
    redis: bool = Field(True, description="use Redis (REDIS_URL, or a private one) for `sideways status`, pause, …")
    page: bool = Field(True, description="serve a live web page of the run (docs/watching.md)")
    page_port: int = Field(0, ge=0, le=65535, description="port of the page; 0: any free port, which the run prints")
    page_host: str = Field("127.0.0.1", description="address that the page binds to; 0.0.0.0: all of the host's")
    trace_ticks: int = Field(
        0, ge=0, le=MOST_TRACED, description="ticks to trace at the start of the run (see `sideways trace`); 0: none"
    )


class Recovery(Section):
    """How a run reacts to a lost process and to divergence."""

    mode: Literal["exact", "heal"] = Field(
        "exact",
        description="when a process is lost, exact: all stages go back to the last checkpoint, as if nothing had "
        "happened; heal: the others go on with the weights that they have, and only the lost stage goes back, to its "
        "last snapshot in memory (Sideways only)",
    )
    snapshot_every: int = Field(100, ge=1, description="heal: ticks between a stage's snapshots in memory")
    restarts: int = Field(5, ge=0, le=1000, description="maximum restarts in any hour after a process was lost")
    divergence: Literal["stop", "rollback"] = Field(
        "stop",
        description="if the loss is NaN or too high, stop: end the run; rollback: resume from an earlier checkpoint",
    )
    highest_loss: float = Field(1e4, gt=0, description="mean loss of a report above which the training has diverged")
    slower: float = Field(0.5, gt=0, le=1, description="factor of the learning rate at a rollback")

    @model_validator(mode="after")
    def _rollback_restarts(self) -> "Recovery":
        if self.divergence == "rollback" and not self.restarts:
            raise ValueError('recovery.divergence = "rollback" needs restarts: set recovery.restarts to 1 or more')
        return self

    @property
    def heals(self) -> bool:
        """Whether the stages that are not lost go on with the weights that they have."""
        return self.mode == "heal"


class Metrics(Section):
    """The Prometheus endpoints (docs/watching.md)."""

    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="the coordinator's port for Prometheus; a host's stages use the ports after it; 0: none",
    )
    host: str = Field("127.0.0.1", description="address that these ports are bound to; 0.0.0.0: all of the host's")
    password_file: Path | None = Field(None, description="file of one line, user:password, which is then required")


_SHALLOW = 4  # stages up to which gradients are so little delayed that skips are not needed


_ERRORS = ("mse", "l1", "huber")
LOSSES: dict[TaskName, tuple[str, ...]] = {  # the default first
    "classify": ("cross_entropy",),
    "multilabel": ("bce",),
    "regress": _ERRORS,
    "autoencode": _ERRORS,
    "predict": _ERRORS,
}


class Config(Section):
    """A run: `stages` stages train `model` on `data` for `task`, for `ticks` ticks or `epochs` epochs."""

    task: TaskName = Field(
        "classify",
        description="what to learn: classify: the class of a clip; multilabel: its classes, any number of them; "
        "regress: its numbers; autoencode: the frame itself; predict: a future frame",
    )
    ahead: int = Field(1, ge=1, le=64, description="task predict: how many frames ahead to predict")
    algorithm: Algorithm = Field("sideways", description="the Sideways rule, or exact gradients to compare it with")
    micro_batches: int | None = Field(None, ge=1, description="gpipe, 1f1b: number of micro-batches; default: stages")
    model: str = Field(
        "vgg8", description="a model of docs/models.md, timm:NAME, or path/to/file.py:factory for your own"
    )
    model_args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model's factory")
    weights: Literal["timm", "torchvision"] | Path | None = Field(
        None,
        description="file of initial weights: .pth, .pt or .safetensors; or timm or torchvision: the model's published "
        "ones, from this host's cache",
    )
    freeze: list[str] = Field(
        [],
        description="names of parts or parameters of the model that are not trained, such as stem, layer1.* or *.bias",
    )
    norm: Literal["trained", "frozen"] = Field(
        "trained",
        description="frozen: every BatchNorm keeps the running statistics and affine parameters of the weight file",
    )
    loss: str | None = Field(
        None,
        description="regress and tasks without labels: mse (the default), l1 or huber; or path/to/file.py:function for "
        "your own, of outputs and targets (docs/training.md); default: that of the task",
    )
    val_metrics: list[str | dict[str, Any]] = Field(
        [],
        description="further figures of an evaluation: classes of torchmetrics by name, or path/to/file.py:function "
        "for your own (docs/training.md)",
    )
    stages: int = Field(4, ge=1, le=256, description="number of stages (D): layer groups, each in its own process")
    replicas: int = Field(
        1,
        ge=1,
        le=256,
        description="copies of every stage (R), each with its share of the slots; gradients are the mean over them",
    )
    split: list[int] | None = Field(None, description="number of blocks of each stage; default: measured and balanced")
    cuts: Literal["auto", "blocks", "layers"] = Field(
        "auto",
        description="blocks: stages begin at blocks; layers: also inside them, and `split` counts layers; auto: layers "
        "if there are more stages than blocks",
    )
    skips: list[tuple[int, int]] | Literal["auto"] = Field(
        [],
        description="pairs [from, to] of stages: `to`, at least two further up, also takes the output of `from` "
        "(Skip-Sideways); auto: with labels and more than 4 stages, from each stage to the top one",
    )
    ticks: int | None = Field(None, ge=1, description="length of the training in ticks")
    epochs: float | None = Field(None, gt=0, description="instead of ticks: passes over the training clips")
    evaluate_every: int = Field(0, ge=0, description="ticks between evaluations; 0: only at the end")
    answer: Answer = Field(
        "mean",
        description="tasks with labels, a clip's answer: mean: that of its frames' answers; last: its last frame's; "
        "a number n: the mean without the first n frames",
    )
    class_weights: list[Annotated[float, Field(ge=0)]] | Literal["balanced"] | None = Field(
        None,
        description="task classify: weights of the classes in the loss, in the order of their names; balanced: inverse "
        "to the number of their frames",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="task classify: label smoothing of the cross entropy")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast; weights stay float32")
    compile: bool = Field(False, description="torch.compile each stage (needs a C++ compiler; not bit-identical)")
    seed: int = Field(0, ge=0, lt=1 << 31, description="random seed of initial weights, clip order and augmentation")
    runs: Path = Field(Path("runs"), description="folder in which run directories are created")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="name of the run directory; default: run file and time",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of a stage; 0: an equal share of the cores")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if the host has it, else the CPU")
    deterministic: bool = Field(
        False, description="deterministic algorithms on CUDA, where torch has them (slower); the CPU's always are"
    )
    tf32: bool = Field(
        True, description="on CUDA, compute float32 convolutions and matrix products in TF32 (faster, 10-bit mantissa)"
    )
    data: Data
    rule: Rule = Rule()
    optimiser: Optimiser = Optimiser()
    network: Network = Network()
    report: Report = Report()
    probe: Probe = Probe()
    checkpoint: Checkpoint = Checkpoint()
    recovery: Recovery = Recovery()
    metrics: Metrics = Metrics()

    @property
    def of_replica(self) -> "Config":
        """The same for one replica, with its share of the slots. Not to be applied twice."""
        slots = self.data.slots // self.replicas
        return self.model_copy(update={"data": self.data.model_copy(update={"slots": slots})})

    @property
    def workers(self) -> int:
        """Number of stage workers."""
        return self.stages * self.replicas

    def at_rate(self, rate: float) -> "Config":
        """A copy with another learning rate."""
        return self.model_copy(update={"optimiser": self.optimiser.model_copy(update={"lr": rate})})

    @property
    def has_labels(self) -> bool:
        """Whether targets are labels, which ride with the rows, and not frames."""
        return self.task not in ("autoencode", "predict")

    @property
    def loss_name(self) -> str:
        """The loss: its name, or path/to/file.py:function."""
        return self.loss or LOSSES[self.task][0]

    @property
    def exact(self) -> bool:
        """Whether gradients are backpropagation's: no mismatch between a stage's input and its gradient."""
        return self.algorithm != "sideways"

    @property
    def parts(self) -> int:
        """Number of micro-batches of a batch (gpipe and 1f1b); 1 for sideways and backprop."""
        return 1 if self.algorithm in ("sideways", "backprop") else self.micro_batches or self.stages

    @property
    def edge_ticks(self) -> tuple[int, ...]:
        """Ticks of the edges between neighbours; empty if they take one each, or are still to be measured."""
        ticks = self.network.edge_ticks
        if ticks == "auto":
            return ()
        ticks = [ticks] * (self.stages - 1) if isinstance(ticks, int) else ticks
        return tuple(ticks) if max(ticks, default=1) > 1 else ()

    @property
    def ticks_to_top(self) -> int:
        """Ticks from a frame's entry until the top stage holds it: no stage is further ahead of the frames."""
        return sum(self.edge_ticks) or self.stages - 1

    @property
    def skip_pairs(self) -> list[tuple[int, int]]:
        """The skips between stages, [(from, to), …]."""
        if self.skips != "auto":
            return self.skips
        plain = self.stages <= _SHALLOW or not self.has_labels or self.exact or self.probe.every > 0
        return [] if plain else [(stage, self.stages - 1) for stage in range(self.stages - 2)]

    def idle(self, planned: int) -> list[str]:
        """Warnings about settings that have no effect in a training of `planned` ticks."""
        return [
            text
            for text, has_no_effect in (
                ('ahead has no effect unless task = "predict"', self.ahead > 1 and self.task != "predict"),
                (
                    "rule.auxiliary has no effect in a single stage",
                    self.rule.auxiliary > 0 and self.stages == 1,
                ),
                (
                    'class_weights has no effect unless task = "classify", or with a loss of your own',
                    self.class_weights and self.loss_name != "cross_entropy",
                ),
                ('data.balance has no effect unless task = "classify"', self.data.balance and self.task != "classify"),
                ("answer has no effect on tasks without labels", self.answer != "mean" and not self.has_labels),
                (
                    'label_smoothing has no effect unless task = "classify", or with a loss of your own',
                    self.label_smoothing and self.loss_name != "cross_entropy",
                ),
                (
                    'norm = "frozen" without weights keeps the statistics that a new BatchNorm begins with',
                    self.norm == "frozen" and self.weights is None,
                ),
                (
                    "micro_batches has no effect unless the algorithm is gpipe or 1f1b",
                    self.micro_batches is not None and self.algorithm in ("sideways", "backprop"),
                ),
                (
                    f"optimiser.warmup covers all {planned} ticks: the full learning rate is never reached",
                    self.optimiser.warmup >= planned,
                ),
            )
            if has_no_effect
        ]

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Shape of a frame batch: [slots, channels, height, width]."""
        return self.data.slots, self.data.channels, *self.data.shape

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame batch before it is normalised."""
        return math.prod(self.frame_shape) * self.data.bits // 8

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if (self.ticks is None) == (self.epochs is None):
            raise ValueError("set the length of the training: either ticks or epochs, not both")
        if self.split is not None and (len(self.split) != self.stages or min(self.split) < 1):
            raise ValueError(
                f"split = {self.split} must have one number of at least 1 for each of the {self.stages} stages"
            )
        if self.data.sources and self.has_labels:
            raise ValueError('data.sources have no labels: set task to "autoencode" or "predict"')
        if self.data.balance and (self.task in ("multilabel", "regress") or self.data.labels_of == "frames"):
            raise ValueError('data.balance needs one class for each clip, so task = "classify" and labels of clips')
        if self.data.live and self.ticks is None:
            raise ValueError("data.sources have no end, so epochs cannot be counted: set ticks instead")
        if self.recovery.heals and self.exact:
            raise ValueError(
                f'recovery.mode = "heal" needs algorithm = "sideways": with "{self.algorithm}" all stages must have '
                f'done the same updates, so set recovery.mode = "exact"'
            )
        self._check_loss()
        self._check_replicas()
        if (self.data.slots // self.replicas) % self.parts:
            raise ValueError(
                f"data.slots = {self.data.slots} cannot be divided into {self.parts} micro-batches: set micro_batches "
                f"to a divisor of data.slots"
            )
        if self.algorithm == "1f1b" and self.parts < self.stages:
            raise ValueError(
                f"1f1b needs at least as many micro_batches as stages, but {self.parts} is less than {self.stages}: "
                f"raise micro_batches"
            )
        if self.probe.every and self.exact:
            raise ValueError(
                f'probe.every is for algorithm = "sideways": "{self.algorithm}" has exact gradients, so set it to 0'
            )
        self._check_skips()
        self._check_edge_ticks()
        if self.rule.auxiliary and self.probe.every:
            raise ValueError("probe.every compares with backpropagation, which has no auxiliary losses: set it to 0")
        if self.rule.auxiliary and (not self.has_labels or (self.exact and self.stages > 1)):
            raise ValueError(
                'rule.auxiliary is for tasks with labels and algorithm = "sideways": leave it out, or set it to 0'
            )
        if self.report.every > self.network.deadline:
            raise ValueError(
                "report.every is longer than network.deadline, so stages would seem lost between reports: lower it"
            )
        if self.metrics.port and self.metrics.port + self.workers > 65535:
            raise ValueError(
                f"metrics.port = {self.metrics.port} leaves no port for each of the {self.workers} stages: "
                f"set it to {65535 - self.workers} at most"
            )
        batch = self.frame_bytes
        if batch > self.network.max_message:
            raise ValueError(
                f"a frame batch of data.slots × data.channels × height × width pixels = {batch} bytes is larger than "
                f"network.max_message = {self.network.max_message}: reduce the batch or raise the limit"
            )
        return self

    def _check_loss(self) -> None:
        known = LOSSES[self.task]
        if self.loss_name not in known and ".py:" not in self.loss_name:
            raise ValueError(
                f'loss = "{self.loss}" is not one of task = "{self.task}": {", ".join(known)}, or '
                "path/to/file.py:function for your own"
            )
        if self.val_metrics and not self.has_labels:
            raise ValueError(
                f'val_metrics compare answers with labels, but task = "{self.task}" has none: leave it out'
            )

    def _check_replicas(self) -> None:
        if self.data.slots % self.replicas:
            raise ValueError(
                f"data.slots = {self.data.slots} cannot be shared by {self.replicas} replicas: set it to a multiple of "
                f"replicas"
            )
        if self.replicas > 1 and self.exact and self.stages > 1:
            raise ValueError(
                f'replicas with algorithm = "{self.algorithm}" need stages = 1, which is data-parallel '
                f'backpropagation: set stages or replicas to 1, or the algorithm to "sideways"'
            )
        if self.replicas > 1 and self.probe.every:
            raise ValueError("probe.every compares the gradients of a single replica: set it or replicas to 0 or 1")

    def _check_edge_ticks(self) -> None:
        ticks = self.network.edge_ticks
        if isinstance(ticks, list) and len(ticks) != self.stages - 1:
            raise ValueError(
                f"network.edge_ticks = {ticks} must have one number for each of the {self.stages - 1} edges between "
                f"stages: or give one number for all"
            )
        if self.exact and self.edge_ticks:
            raise ValueError(f'network.edge_ticks is for algorithm = "sideways", not "{self.algorithm}": leave it out')
        if self.exact and self.network.wire != "float32":
            raise ValueError(f'network.wire is for algorithm = "sideways", not "{self.algorithm}": leave it out')

    def _check_skips(self) -> None:
        if self.skips == "auto":
            return
        if len(set(self.skips)) < len(self.skips):
            raise ValueError(f"skips = {[list(skip) for skip in self.skips]} names a pair twice: leave one out")
        for source, target in self.skips:
            if not 0 <= source <= target - 2 <= self.stages - 3:
                raise ValueError(
                    f"skips: [{source}, {target}] must lead from a stage to one at least two further up, and stages "
                    f"are numbered from 0 to {self.stages - 1}"
                )
        if self.skips and self.exact:
            raise ValueError(f'skips are for algorithm = "sideways", not "{self.algorithm}": leave them out')
        if self.skips and self.probe.every:
            raise ValueError("probe.every compares with backpropagation, which has no skips: set it to 0")


def share_of_threads(config: Config, processes: int) -> int:
    """CPU threads for each of `processes` stage workers of this host."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // max(1, processes))
