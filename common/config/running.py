"""The settings of the network, of reports, of recovery and of metrics."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from common.config.section import Section

TrackerName = Literal["wandb", "mlflow"]
MOST_EDGE_TICKS = 256
EdgeTicks = Annotated[int, Field(ge=1, le=MOST_EDGE_TICKS)]


def _as_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", value):
        raise ValueError(
            f"name = {value!r} is no name of a run: letters without accents, digits, - _ and . only, and no . first"
        )
    return value


RunName = Annotated[str, AfterValidator(_as_name)]


class Network(Section):
    """How the processes communicate, and how long they wait for each other."""

    deadline: float = Field(60.0, gt=0, le=3600, description="seconds a process waits for another before giving up")
    transport: Literal["auto", "gloo", "nccl", "shared"] = Field(
        "auto",
        description="auto: memory that both stages map between stages of one host (between GPUs by CUDA IPC); "
        "between hosts NCCL if all stages compute on GPUs and the edge takes one tick, else gloo. Except with gloo, "
        "frames also go through shared memory if the coordinator and stage 0 are on one host",
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
    page_video: bool = Field(
        True, description="the page also shows frames of a few slots, and what the top stage says of them"
    )
    trace_ticks: int = Field(
        0, ge=0, le=MOST_TRACED, description="ticks to trace at the start of the run (see `sideways trace`); 0: none"
    )


_HEAL_EVERY = 100  # ticks


class Recovery(Section):
    """How a run reacts to a lost process and to divergence."""

    mode: Literal["exact", "heal"] = Field(
        "exact",
        description="when a process is lost, exact: all stages go back to the last checkpoint or snapshot, as if "
        "nothing had happened; heal: the others go on with the weights that they have, and only the lost stage goes "
        "back, to its last snapshot in memory (Sideways only)",
    )
    snapshot_every: int | None = Field(
        None,
        ge=1,
        description="ticks between snapshots of the state in memory, to which exact goes back instead of an older "
        "checkpoint, and heal's lost stage; default: none with exact, 100 with heal (docs/deploying.md)",
    )
    restarts: int = Field(
        5,
        ge=0,
        le=1000,
        description="maximum restarts by `sideways train` in any hour after a process was lost; "
        "of deployed runs: RESTARTS (docs/deploying.md)",
    )
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

    @property
    def snapshot_ticks(self) -> int:
        """Ticks between snapshots in memory; 0: none."""
        return self.snapshot_every or (_HEAL_EVERY if self.heals else 0)


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
