"""Every setting of a run, its default and its constraints. common/config/run_file.py reads them from a file."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.config.consistency import contradictions
from common.config.data import IMAGENET_MEAN, IMAGENET_STD, MEMORY, OWN_DATASET, Data, source_of
from common.config.plain_values import Arguments, plain
from common.config.running import MOST_TRACED, Metrics, Network, Recovery, Report, RunName, TrackerName
from common.config.section import Section
from common.config.tasks import LOSSES, TaskName
from common.config.training import Checkpoint, Optimiser, Probe, Rule

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MEMORY",
    "MOST_TRACED",
    "OWN_DATASET",
    "Algorithm",
    "Answer",
    "Config",
    "Data",
    "Metrics",
    "Network",
    "Optimiser",
    "Recovery",
    "Report",
    "Rule",
    "TaskName",
    "TrackerName",
    "share_of_threads",
    "source_of",
]

Algorithm = Literal["sideways", "backprop", "gpipe", "1f1b"]
Answer = Literal["mean", "last"] | Annotated[int, Field(ge=1)]

_SHALLOW = 4  # stages up to which gradients are so little delayed that skips are not needed
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
    model_args: Arguments = Field(default_factory=dict, description="arguments of the model's factory")
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
    val_metrics: Annotated[list[str | dict[str, Any]], AfterValidator(plain)] = Field(
        [],
        max_length=16,
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
    name: RunName | None = Field(None, description="name of the run directory; default: run file and time")
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

    @property
    def of_pass(self) -> "Config":
        """The same for one pass of a stage, with the rows that it has: of a replica, or of a micro-batch."""
        return self._divided(self.replicas * self.micro_batch_count)

    def _divided(self, parts: int) -> "Config":
        slots = self.data.slots // parts
        return self.model_copy(update={"data": self.data.model_copy(update={"slots": slots})})

    @property
    def total_stages(self) -> int:
        """Number of stages of all replicas."""
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
        """Whether targets are labels, which are sent with the rows, and not frames."""
        return self.task not in ("autoencode", "predict")

    @property
    def loss_name(self) -> str:
        """The loss: its name, or path/to/file.py:function."""
        return self.loss or LOSSES[self.task][0]

    @property
    def exact_gradients(self) -> bool:
        """Whether gradients are backpropagation's: no mismatch between a stage's input and its gradient."""
        return self.algorithm != "sideways"

    @property
    def channels_last(self) -> bool:
        """Whether maps have this order in memory. `auto` is replaced before stages are built (memory_format.py)."""
        return self.memory_format == "channels_last"

    @property
    def micro_batch_count(self) -> int:
        """Number of micro-batches of a batch (gpipe and 1f1b with several stages, else 1)."""
        if self.stages == 1 or self.algorithm in ("sideways", "backprop"):
            return 1
        return self.micro_batches or self.stages

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
        plain = self.stages <= _SHALLOW or not self.has_labels or self.exact_gradients or self.probe.every > 0
        return [] if plain else [(stage, self.stages - 1) for stage in range(self.stages - 2)]

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

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        for problem in contradictions(self):
            raise ValueError(problem)
        return self


def share_of_threads(config: Config, processes: int) -> int:
    """CPU threads for each of `processes` stage workers of this host."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // max(1, processes))
