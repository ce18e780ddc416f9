"""Every setting of a run, its default and its constraints. common/config/run_file.py reads them from a file."""

import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["classify", "autoencode", "predict"]
Algorithm = Literal["sideways", "backprop", "gpipe", "1f1b"]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown setting is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """The videos and how the slots play them."""

    train: Path | None = Field(
        None,
        description="training clips: a folder root/<class>/<clip>, a list, or an official split",
    )
    val: Path | None = Field(None, description="the same for validation; none: no evaluation")
    train_include: str = Field("*", description="pattern that a training clip's path below the root must match")
    val_include: str = Field("*", description="the same for validation clips")
    format: Literal["auto", "folders", "list", "frames", "ucf101", "hmdb51", "kinetics"] = Field(
        "auto", description="how train and val lie on the disk (docs/data.md); auto: by what they are"
    )
    videos: Path | None = Field(
        None, description="folder that listed paths start from and stay in; default: the list's"
    )
    fold: int = Field(1, ge=1, le=99, description="which of the official splits of ucf101 and hmdb51")
    frame_files: str = Field("*", description="pattern of a frame's file name in folders of frames, such as img_*")
    quarantine: Path | None = Field(None, description="list of files to leave out, from `sideways check --quarantine`")
    sources: list[str] = Field(
        [], description="live sources in place of train, such as rtsp://…, /dev/video0, http://…"
    )
    source_format: str | None = Field(None, description="their FFmpeg format where it cannot be guessed, such as v4l2")
    source_options: dict[str, str] = Field(
        default_factory=dict, description='their FFmpeg options, such as { rtsp_transport = "tcp" }'
    )
    source_timeout: float = Field(5.0, gt=0, le=600, description="seconds of silence until it is reconnected")
    loop: bool = Field(False, description="sources are long files that are played round and round, every frame")
    slots: int = Field(16, ge=1, le=4096, description="video streams played side by side: the rows of a batch (B)")
    stride: int = Field(1, ge=1, description="every how many-th frame of a clip is played")
    fps: float | None = Field(None, gt=0, le=1000, description="or frames a second, by the files' timestamps")
    window: int | None = Field(None, ge=1, description="frames of a random window a training clip plays; default: all")
    size: int = Field(64, ge=4, le=2048, description="frames are cropped to size × size pixels")
    resize: int | None = Field(None, le=8192, description="short side before the crop, in pixels; default: size")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB")
    flip: float = Field(0.0, ge=0, le=1, description="probability that a training clip is mirrored")
    scale: tuple[float, float] | None = Field(
        None, description="random-resized crop: least and largest share of the area; default: a crop of size × size"
    )
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="its least and largest width / height")
    brightness: float = Field(0.0, ge=0, le=1, description="a training clip's is multiplied by 1 ± this at most")
    contrast: float = Field(0.0, ge=0, le=1, description="the same for contrast")
    saturation: float = Field(0.0, ge=0, le=1, description="the same for saturation")
    hue: float = Field(0.0, ge=0, le=0.5, description="turned by ± this share of the colour circle at most")
    mean: float = Field(0.5, description="subtracted from pixels in 0 … 1")
    std: float = Field(0.25, gt=0, description="pixels are divided by it")
    threads: int = Field(2, ge=1, le=64, description="files decoded at a time; as many processes again make pixels")

    @model_validator(mode="after")
    def _one_origin(self) -> "Data":
        if self.train is None and not self.sources:
            raise ValueError(
                "data.train is missing: set it to a folder or list of videos, or data.sources to live sources"
            )
        if self.train is not None and self.sources:
            raise ValueError("data.train and data.sources exclude each other: frames come from files or from sources")
        if len(self.sources) > self.slots:
            raise ValueError(
                f"data.sources names {len(self.sources)} sources, but data.slots = {self.slots}: "
                f"a slot plays one source, so make data.slots at least as large"
            )
        if self.loop and not self.sources:
            raise ValueError('data.loop needs data.sources, such as sources = ["long.mp4"]')
        if self.live and (self.stride > 1 or self.fps or self.window):
            raise ValueError("data.stride, data.fps and data.window are for files: live sources play the newest frame")
        return self

    @model_validator(mode="after")
    def _sampling(self) -> "Data":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"data.resize = {self.resize} is smaller than data.size = {self.size}: make it at least as large"
            )
        if self.fps is not None and self.stride > 1:
            raise ValueError("data.stride and data.fps exclude each other: leave data.stride out")
        if self.loop and self.window:
            raise ValueError("data.window and data.loop exclude each other: a loop plays every frame")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"data.scale = {list(self.scale)} must be [least, largest], shares of the area in 0 … 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"data.ratio = {list(self.ratio)} must be [least, largest], both above 0")
        if self.channels == 1 and (self.saturation or self.hue):
            raise ValueError("data.saturation and data.hue need colour: leave them out, or set data.channels = 3")
        return self

    @property
    def short_side(self) -> int:
        """Length of a frame's short side before the crop, in pixels."""
        return self.resize or self.size

    @property
    def computes(self) -> bool:
        """Whether augmentation computes new pixel values, rather than only cropping and flipping."""
        return self.scale is not None or any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def live(self) -> bool:
        """Whether frames come from live sources, which do not wait for the pipeline."""
        return bool(self.sources) and not self.loop


class Rule(Section):
    """Options of the Sideways rule."""

    boundary: Literal["gate", "mix"] = Field("gate", description="gate: drop gradients of another clip; mix: keep them")
    every: int = Field(1, ge=1, description="ticks per update; the update uses their mean gradient")


class Optimiser(Section):
    """The optimiser, a torch.optim class.

    Gradients are delayed, so the defaults use no momentum, and a lower learning rate the larger a stage's mismatch is
    (docs/learning.md).
    """

    name: str = Field("AdamW", description="a class of torch.optim")
    lr: float = Field(1e-3, ge=0, description="learning rate, the highest that the schedule reaches")
    lr_by_mismatch: bool = Field(True, description="divide a stage's rate by 1 + its mismatch in frames")
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="further arguments; Adam and AdamW have betas [0, 0.999] by default",
    )
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = Field(
        "constant", description="the learning rate's course over the planned ticks, after the warm-up"
    )
    warmup: int = Field(0, ge=0, description="ticks over which the rate rises linearly from 0")
    final: float = Field(0.0, ge=0, le=1, description="cosine and one-cycle end at this share of the rate")
    steps: list[float] = Field([0.5, 0.75], description="step: the rate falls after these shares of the ticks")
    gamma: float = Field(0.1, gt=0, le=1, description="step: what the rate is multiplied by each time")
    peak: float = Field(0.3, gt=0, lt=1, description="one-cycle: share of the ticks at which the rate is highest")
    decay_all: bool = Field(False, description="weight decay on normalisations and biases too")
    clip: float | None = Field(None, gt=0, description="norm of a stage's gradient above which it is scaled down")
    orthogonal: float = Field(
        0.0, ge=0, lt=1, description="decay of a mean of the gradients, along which no update goes; 0: none"
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of an average of the weights, which is evaluated and saved")

    @model_validator(mode="after")
    def _steps_are_shares(self) -> "Optimiser":
        if self.steps != sorted(self.steps) or not all(0 < share < 1 for share in self.steps):
            raise ValueError(f"optimiser.steps = {self.steps} must be rising shares of the training between 0 and 1")
        return self


class Probe(Section):
    """Periodic comparison of the pseudo-gradients with backpropagation's gradients."""

    every: int = Field(0, ge=0, description="ticks between probes; 0: none")


class Checkpoint(Section):
    """When checkpoints are taken, and how many are kept."""

    every: int = Field(1000, ge=0, description="ticks between checkpoints; 0: only at an end or a stop")
    keep: int = Field(3, ge=1, le=1000, description="newest checkpoints that are kept, beside the best")


class Network(Section):
    """How the processes communicate, and how long they wait for each other."""

    deadline: float = Field(60.0, gt=0, le=3600, description="seconds any process waits for another before it gives up")
    transport: Literal["auto", "gloo", "nccl", "shared"] = Field(
        "auto",
        description="auto: NCCL if every stage has its own GPU; else shared memory between stages of one host on the "
        "CPU, gloo between others. With all but gloo, frames too lie in shared memory where coordinator and stage 0 "
        "are on one host",
    )
    max_message: int = Field(1 << 28, ge=1 << 16, description="bytes of the largest frame batch a stage accepts")


MOST_TRACED = 10_000  # ticks


class Report(Section):
    """What the run reports, and where."""

    every: float = Field(0.5, gt=0, le=60, description="seconds between a stage's reports")
    losses: bool = Field(False, description="also write the loss of every single tick into metrics.jsonl")
    tensorboard: bool = Field(True, description="write TensorBoard's event files into the run directory")
    redis: bool = Field(True, description="`sideways status`, pause, … work: by REDIS_URL, or by a Redis of its own")
    page: bool = Field(True, description="serve a live web page of the run (docs/watching.md)")
    page_port: int = Field(0, ge=0, le=65535, description="the page's port; 0: any free one, which the run prints")
    page_host: str = Field("127.0.0.1", description="address that it is bound to; 0.0.0.0: all of the host's")
    trace_ticks: int = Field(
        0, ge=0, le=MOST_TRACED, description="ticks to trace at the start, as `sideways trace` does later; 0: none"
    )


class Recovery(Section):
    """How a run reacts to a lost process and to divergence."""

    restarts: int = Field(
        5, ge=0, le=1000, description="times an hour that a run which lost a process goes on from its last checkpoint"
    )
    divergence: Literal["stop", "rollback"] = Field(
        "stop", description="a loss that is NaN or too high ends the run, or it goes on from a checkpoint before that"
    )
    highest_loss: float = Field(1e4, gt=0, description="mean loss of a report above which the training has diverged")
    slower: float = Field(0.5, gt=0, le=1, description="what a rollback multiplies the learning rate by")

    @model_validator(mode="after")
    def _rollback_restarts(self) -> "Recovery":
        if self.divergence == "rollback" and not self.restarts:
            raise ValueError("a rollback restarts all processes: set recovery.restarts to 1 or more")
        return self


class Metrics(Section):
    """The Prometheus endpoints (docs/watching.md)."""

    port: int = Field(
        0, ge=0, le=65535, description="the coordinator's port for Prometheus; a host's stages have the next; 0: none"
    )
    host: str = Field("127.0.0.1", description="address that these ports are bound to; 0.0.0.0: all of the host's")
    password_file: Path | None = Field(None, description="file of one line user:password that is then asked for")


class Config(Section):
    """A run: `stages` stages train `model` on `data` for `task`, for `ticks` ticks or `epochs` epochs."""

    task: Task = Field("classify", description="what is learnt: the class, the frame itself, or a frame to come")
    ahead: int = Field(1, ge=1, le=64, description="task predict: how many frames ahead the predicted one is")
    algorithm: Algorithm = Field("sideways", description="the rule, or exact gradients to compare it with")
    micro_batches: int | None = Field(None, ge=1, description="gpipe and 1f1b: parts of a batch; default: stages")
    model: str = Field("vgg8", description="a name from docs/models.md, or path/to/file.py:factory for your own")
    model_args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model's factory")
    weights: Path | None = Field(None, description="file of weights to begin with: .pth, .pt or .safetensors")
    stages: int = Field(4, ge=1, le=256, description="layer groups, each a process (D)")
    split: list[int] | None = Field(None, description="blocks of each stage; default: measured and balanced")
    cuts: Literal["blocks", "layers"] = Field(
        "blocks", description="where stages may begin: layers: also inside blocks, and `split` counts layers"
    )
    ticks: int | None = Field(None, ge=1, description="length of the training in ticks")
    epochs: float | None = Field(None, gt=0, description="or in passes over the training clips")
    evaluate_every: int = Field(0, ge=0, description="ticks between evaluations; 0: only at the end")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="task classify: share of the target spread over all")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast; weights stay float32")
    compile: bool = Field(False, description="torch.compile each stage (needs a C++ compiler; not bit for bit)")
    seed: int = Field(0, ge=0, lt=1 << 31, description="of weights, order of clips and augmentation")
    runs: Path = Field(Path("runs"), description="folder that holds a folder for every run")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", description="the run's folder; default: file and time"
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of a stage; 0: its share of the cores")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where the host has it")
    deterministic: bool = Field(
        False, description="on CUDA torch's deterministic algorithms, where it has them: slower. The CPU's always are"
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

    def at_rate(self, rate: float) -> "Config":
        """A copy with another learning rate."""
        return self.model_copy(update={"optimiser": self.optimiser.model_copy(update={"lr": rate})})

    @property
    def exact(self) -> bool:
        """Whether gradients are backpropagation's: no mismatch between a stage's input and its gradient."""
        return self.algorithm != "sideways"

    @property
    def parts(self) -> int:
        """Number of micro-batches of a batch (gpipe and 1f1b); 1 for sideways and backprop."""
        return 1 if self.algorithm in ("sideways", "backprop") else self.micro_batches or self.stages

    def idle(self, planned: int) -> list[str]:
        """Warnings about settings that have no effect in a training of `planned` ticks."""
        return [
            text
            for text, useless in (
                ('ahead is only used by task = "predict"', self.ahead > 1 and self.task != "predict"),
                ('label_smoothing is only used by task = "classify"', self.label_smoothing and self.task != "classify"),
                (
                    "micro_batches are only used by gpipe and 1f1b",
                    self.micro_batches is not None and self.algorithm in ("sideways", "backprop"),
                ),
                (
                    f"optimiser.warmup is no shorter than the {planned} ticks in all: the full rate is never reached",
                    self.optimiser.warmup >= planned,
                ),
            )
            if useless
        ]

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Shape of a frame batch: [slots, channels, height, width]."""
        return self.data.slots, self.data.channels, self.data.size, self.data.size

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if (self.ticks is None) == (self.epochs is None):
            raise ValueError("give the length of the training: either ticks or epochs, not both")
        if self.split is not None and (len(self.split) != self.stages or min(self.split) < 1):
            raise ValueError(f"split = {self.split} must name at least one block for each of the {self.stages} stages")
        if self.data.sources and self.task == "classify":
            raise ValueError('data.sources have no labels: set task to "autoencode" or "predict"')
        if self.data.live and self.ticks is None:
            raise ValueError("data.sources have no end, so epochs cannot be counted: set ticks instead")
        if self.data.slots % self.parts:
            raise ValueError(
                f"data.slots = {self.data.slots} cannot be cut into {self.parts} micro-batches: set micro_batches to a "
                f"divisor of data.slots"
            )
        if self.algorithm == "1f1b" and self.parts < self.stages:
            raise ValueError(
                f"1f1b needs at least as many micro_batches as stages, but {self.parts} is less than {self.stages}: "
                f"raise micro_batches"
            )
        if self.probe.every and self.exact:
            raise ValueError(
                f'probe.every measures Sideways: with algorithm = "{self.algorithm}" there is nothing to measure'
            )
        if self.report.every > self.network.deadline:
            raise ValueError("report.every is longer than network.deadline: a silent stage would pass for a dead one")
        if self.metrics.port and self.metrics.port + self.stages > 65535:
            raise ValueError(
                f"metrics.port = {self.metrics.port} leaves no port for each of the {self.stages} stages: "
                f"it may be {65535 - self.stages} at most"
            )
        batch = math.prod(self.frame_shape)
        if batch > self.network.max_message:
            raise ValueError(
                f"a frame batch of data.slots × data.channels × data.size² = {batch} bytes is larger than "
                f"network.max_message = {self.network.max_message}: make the batch smaller or the limit larger"
            )
        return self


def share_of_threads(config: Config, processes: int) -> int:
    """CPU threads for each of `processes` stage workers of this host."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // max(1, processes))
