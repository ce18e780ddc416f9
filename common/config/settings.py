"""Every setting of a run, its default and its constraints. common/config/run_file.py reads them from a file."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from common.config.data import IMAGENET_MEAN, IMAGENET_STD, MEMORY, OWN_DATASET, Data, source_of
from common.config.running import MOST_TRACED, EdgeTicks, Metrics, Network, Recovery, Report, TrackerName
from common.config.section import Section
from common.config.training import Checkpoint, Optimiser, Probe, Rule

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "LOSSES",
    "MEMORY",
    "MOST_TRACED",
    "OWN_DATASET",
    "Algorithm",
    "Answer",
    "Checkpoint",
    "Config",
    "Data",
    "EdgeTicks",
    "Metrics",
    "Network",
    "Optimiser",
    "Probe",
    "Recovery",
    "Report",
    "Rule",
    "TaskName",
    "TrackerName",
    "share_of_threads",
    "source_of",
]

TaskName = Literal["classify", "multilabel", "regress", "autoencode", "predict"]
Algorithm = Literal["sideways", "backprop", "gpipe", "1f1b"]
Answer = Literal["mean", "last"] | Annotated[int, Field(ge=1)]

_SHALLOW = 4  # stages up to which gradients are so little delayed that skips are not needed


_ERRORS = ("mse", "l1", "huber")
LOSSES: dict[TaskName, tuple[str, ...]] = {  # the default first
    "classify": ("cross_entropy",),
    "multilabel": ("bce",),
    "regress": _ERRORS,
    "autoencode": _ERRORS,
    "predict": _ERRORS,
}


_REPORTING = 16  # ticks until a report has been read, generously


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
    norm: Literal["trained", "frozen", "sync"] = Field(
        "trained",
        description="frozen: every BatchNorm keeps the running statistics and affine parameters of the weight file; "
        "sync: in training its statistics are those of the rows of all replicas",
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
    stages: int = Field(
        4, ge=1, le=256, description="number of stages (D): layer groups, by default each in its own process"
    )
    replicas: int = Field(
        1,
        ge=1,
        le=256,
        description="copies of every stage (R), each with its share of the slots; gradients are the mean over them",
    )
    stages_per_process: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        "auto",
        description="neighbouring stages that one process holds; auto: one, and on a host with fewer GPUs than stages "
        "those that share a GPU",
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
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto",
        description="order of maps in memory, in stages and on edges; auto: channels_last on GPUs if the model "
        "convolves and has no GroupNorm, which torch computes on contiguous maps there; else contiguous (docs/gpu.md)",
    )
    compile: bool | Literal["reduce-overhead"] = Field(
        False,
        description="torch.compile each stage (needs a C++ compiler; not bit-identical); reduce-overhead: on a GPU "
        "also as CUDA graphs, by torch's own means (docs/gpu.md)",
    )
    graph: bool | Literal["auto"] = Field(
        False,
        description="on a GPU, replay each stage's passes as CUDA graphs, after some ticks whose replay equals them "
        "bit for bit; auto: where that is possible; true: an error where it is not (docs/gpu.md)",
    )
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
        return self._divided(self.replicas)

    @property
    def of_reader(self) -> "Config":
        """The same for one reader, with its share of the slots. Not to be applied twice."""
        return self._divided(max(1, self.data.readers))

    def _divided(self, parts: int) -> "Config":
        slots = self.data.slots // parts
        return self.model_copy(update={"data": self.data.model_copy(update={"slots": slots})})

    @property
    def workers(self) -> int:
        """Number of stage workers."""
        return self.stages * self.replicas

    @property
    def snapshots_kept(self) -> int:
        """How many snapshots in memory each stage keeps: of them, all stages always have one of the same tick.

        Besides the one that the slowest stage is writing and the one before, the fastest has those of the ticks that
        it is ahead, also of the coordinator, which keeps its position once all stages have reported.
        """
        ahead = self.ticks_to_top + _REPORTING
        return 1 if self.recovery.heals else 3 + ahead // max(1, self.recovery.snapshot_ticks)

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
    def channels_last(self) -> bool:
        """Whether maps have this order in memory. `auto` is replaced before stages are built (memory_format.py)."""
        return self.memory_format == "channels_last"

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
    def may_jitter_later(self) -> bool:
        """Whether the first stage can jitter colours: the top stage gets frames as targets from the decoders."""
        return self.has_labels and self.data.bits == 8

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """Shape of a frame batch: [slots, channels, height, width]."""
        return self.data.slots, self.data.channels, *self.data.shape

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame batch before it is normalised."""
        return math.prod(self.frame_shape) * self.data.bits // 8

    def _check_flip(self) -> None:
        if self.data.flip_targets and self.task != "regress":
            raise ValueError('data.flip_targets is for task = "regress": leave it out')
        if self.task == "regress" and self.data.flip and self.data.flip_targets is None:
            raise ValueError(
                f"data.flip = {self.data.flip} mirrors frames, but not their numbers: list in data.flip_targets those "
                f"that change sign then, such as [0] if the first is x, measured from the middle of the frame, or [] "
                f"if none does; or set data.flip to 0"
            )

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
        self._check_flip()
        if self.data.jitter == "stages" and not self.may_jitter_later:
            raise ValueError(
                'data.jitter = "stages" needs a task with labels and frames of 8 bits: set it to "auto" or "decoders"'
            )
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
        self._check_processes()
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

    def _check_processes(self) -> None:
        if self.exact and self.stages_per_process not in ("auto", 1):
            raise ValueError(
                f'stages_per_process is for algorithm = "sideways": with "{self.algorithm}" every stage needs a '
                "process of its own, so leave it out"
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
        if self.norm == "sync" and self.replicas == 1:
            raise ValueError(
                'norm = "sync" takes the statistics of all replicas, and with one replica a BatchNorm has all rows '
                'anyway: set replicas to 2 or more, or norm = "trained"'
            )
        if self.norm == "sync" and (self.compile or self.graph):
            raise ValueError(
                'norm = "sync" exchanges statistics within a pass, which can be neither compiled nor replayed: set '
                "compile and graph to false"
            )
        if self.data.readers and self.replicas % self.data.readers:
            raise ValueError(
                f"data.readers = {self.data.readers} cannot share {self.replicas} replicas: set it to a divisor of "
                f"replicas, as each reader feeds as many"
            )
        if self.data.readers and self.probe.every:
            raise ValueError("probe.every needs the frames in the coordinator: set it or data.readers to 0")
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
