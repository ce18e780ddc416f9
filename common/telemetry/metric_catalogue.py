"""Every metric that the processes of a run export to Prometheus. metric_registry.py holds their values.

python -m common.telemetry.metric_catalogue > docs/metrics.md
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Who = Literal["stage", "coordinator", "both"]
Kind = Literal["counter", "gauge", "histogram"]

EDGES = 2.0 ** np.arange(-13, 6)  # upper bounds of the histogram buckets, in seconds: 0.12 ms … 32 s


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        unit: as in the name; "" for a dimensionless number.
        who: the processes that export it.
    """

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    who: Who
    help: str

    @property
    def shown(self) -> str:
        """The exported name, for queries: a counter's gets the suffix _total."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


_STAGE: tuple[str, ...] = ("stage",)

METRICS = (
    Metric("sideways_ticks", "counter", "", _STAGE, "stage", "Ticks done by this process"),
    Metric("sideways_current_tick", "gauge", "", _STAGE, "stage", "Number of the last reported tick of the run"),
    Metric("sideways_tick_seconds", "histogram", "seconds", _STAGE, "stage", "Duration of a tick"),
    Metric("sideways_tick_compute_seconds", "histogram", "seconds", _STAGE, "stage", "Time in the model, per tick"),
    Metric(
        "sideways_tick_receive_wait_seconds", "histogram", "seconds", _STAGE, "stage",
        "Waiting for the neighbours' activations and gradients, and for other replicas' gradients, per tick",
    ),
    Metric(
        "sideways_tick_send_wait_seconds", "histogram", "seconds", _STAGE, "stage",
        "Waiting for the neighbours to free buffers, per tick",
    ),
    Metric(
        "sideways_tick_data_wait_seconds", "histogram", "seconds", _STAGE, "stage",
        "Waiting for the coordinator's frames and targets, per tick",
    ),
    Metric(
        "sideways_edge_bytes", "counter", "bytes", ("stage", "way"), "both",
        "Bytes sent: by a stage forward to the next, backward to the previous; frames, targets by coordinator, readers",
    ),
    Metric(
        "sideways_gradient_rows", "counter", "", _STAGE, "stage",
        "Gradient rows received; the gated share is sideways_gated_rows_total / sideways_gradient_rows_total",
    ),
    Metric(
        "sideways_gated_rows", "counter", "", _STAGE, "stage",
        "Gradient rows dropped because they belong to another clip than the row's input",
    ),
    Metric("sideways_gradient_norm", "gauge", "", _STAGE, "stage", "Euclidean norm of the stage's last gradient"),
    Metric("sideways_learning_rate", "gauge", "", _STAGE, "stage", "Learning rate of the last update"),
    Metric(
        "sideways_mismatch_frames", "gauge", "frames", _STAGE, "stage",
        "Frames between the input that the stage holds and the one its gradient belongs to",
    ),
    Metric(
        "sideways_loss", "gauge", "", _STAGE, "stage",
        "Mean loss of the last report's ticks, on the frames being learnt; top stage only",
    ),
    Metric(
        "sideways_accuracy_ratio", "gauge", "ratio", _STAGE, "stage",
        "Share of the last report's training rows that were classified correctly; top stage only. Too "
        "high, as the frame before was just learnt: compare runs by sideways_validation_figure",
    ),
    Metric(
        "sideways_peak_memory_bytes", "gauge", "bytes", _STAGE, "stage",
        "Peak memory of the stage: device memory on CUDA, else growth of the process",
    ),
    Metric("sideways_cuda_memory_bytes", "gauge", "bytes", _STAGE, "stage", "CUDA memory in tensors now; 0 on the CPU"),
    Metric(
        "sideways_dropped_reports", "counter", "", _STAGE, "stage",
        "Reports dropped because the coordinator was too slow",
    ),
    Metric("sideways_training", "gauge", "", (), "coordinator", "1 while ticks run, else 0"),
    Metric("sideways_planned_ticks", "gauge", "", (), "coordinator", "Ticks of the whole training"),
    Metric("sideways_frames", "counter", "frames", ("phase",), "coordinator", "Frames fed: training, evaluation"),
    Metric(
        "sideways_reader_seconds", "counter", "seconds", ("reader", "work"), "coordinator",
        "Time of the coordinator, or of a reader: read, waiting for decoded frames; feed, passing them on",
    ),
    Metric(
        "sideways_dropped_frames", "counter", "frames", (), "coordinator",
        "Frames of live sources dropped because the pipeline was too slow",
    ),
    Metric(
        "sideways_clip_mishaps", "counter", "", ("kind",), "coordinator",
        "Clips: skipped (nothing decoded), broken (ended early), damaged (in part), short (within the mismatch)",
    ),
    Metric("sideways_reconnects", "counter", "", (), "coordinator", "Reconnects to live sources"),
    Metric(
        "sideways_queue_depth", "gauge", "", ("queue",), "coordinator",
        "Waiting batches; frames: fed by the coordinator and not yet received by stage 0, as of its last report",
    ),
    Metric(
        "sideways_pseudo_gradient_cosine", "gauge", "", _STAGE, "coordinator",
        "Cosine between the pseudo-gradient and backpropagation's gradient, in the last probe",
    ),
    Metric(
        "sideways_pseudo_gradient_norm_ratio", "gauge", "ratio", _STAGE, "coordinator",
        "Norm of the pseudo-gradient over that of backpropagation's, in the last probe",
    ),
    Metric(
        "sideways_validation_score", "gauge", "", (), "coordinator",
        "Score of the last evaluation, larger is better: checkpoint.best, negative if it is an error",
    ),
    Metric(
        "sideways_validation_figure", "gauge", "", ("figure",), "coordinator",
        "Figures of the last evaluation, such as val_top1, val_loss",
    ),
    Metric(
        "sideways_checkpoint_timestamp_seconds", "gauge", "seconds", (), "coordinator",
        "Time of the newest checkpoint; before the first, when this process began to train. Age: time() minus this",
    ),
    Metric(
        "sideways_checkpoint_duration_seconds", "gauge", "seconds", (), "coordinator",
        "Time from the first byte of the last checkpoint to its commit; 0 before the first",
    ),
    Metric(
        "sideways_checkpoint_size_bytes", "gauge", "bytes", (), "coordinator",
        "Size of the last checkpoint; 0 before the first",
    ),
    Metric("sideways_checkpoints", "counter", "", (), "coordinator", "Checkpoints written by this process"),
    Metric("sideways_checkpoint_failures", "counter", "", (), "coordinator", "Checkpoints that failed"),
    Metric("sideways_restarts", "counter", "", (), "coordinator", "Restarts of the run by its launcher"),
    Metric(
        "sideways_recovery_seconds", "gauge", "seconds", (), "coordinator",
        "Time from the last report before the last restart to the first after it; 0 if there was none",
    ),
    Metric(
        "sideways_lost_ticks", "gauge", "", (), "coordinator",
        "Ticks whose updates the lost stages had not kept when the run healed last (recovery.mode); 0 if it has not",
    ),
    Metric("sideways_replicas", "gauge", "", (), "coordinator", "Copies of every stage (replicas)"),
    Metric(
        "sideways_edge_ticks", "gauge", "ticks", _STAGE, "coordinator",
        "Ticks from sending to using between this stage and the next (network.edge_ticks)",
    ),
)  # fmt: skip
TABLE = {metric.name: metric for metric in METRICS}


def document() -> str:
    """The text of docs/metrics.md."""
    rows = [
        f"| `{m.shown}` | {m.kind} | {m.unit or '1'} | {', '.join(m.labels) or 'none'} | {_WHO[m.who]} | {m.help} |"
        for m in METRICS
    ]
    edges = f"{1e3 * EDGES[0]:.2f} ms to {EDGES[-1]:.0f} s, each twice the one before"
    return "\n".join([*_INTRODUCTION, *rows, "", f"Buckets of the histograms: {edges}.", *_PROCESS])


_WHO = {"stage": "stage worker", "coordinator": "coordinator", "both": "both"}
_INTRODUCTION = [
    "# Metrics",
    "",
    "Generated by `python -m common.telemetry.metric_catalogue > docs/metrics.md`. With `metrics.port` set, the",
    "coordinator and each stage serve their own at `http://HOST:PORT/metrics` ([watching.md](watching.md)); readers'",
    "figures are in the coordinator's. `stage` counts from 0; Prometheus adds the labels `run` and `process`",
    "(`coordinator`, `stage 0`, or with replicas `replica 0 stage 0`, …) from the run's list of targets.",
    "",
    "| name | type | unit | labels | exported by | meaning |",
    "|---|---|---|---|---|---|",
]
_PROCESS = [
    "",
    "On Linux every process also exports prometheus_client's own: `process_resident_memory_bytes` (host memory),",
    "`process_virtual_memory_bytes`, `process_cpu_seconds_total`, `process_start_time_seconds`, `process_open_fds`,",
    "`process_max_fds`.",
    "",
]


if __name__ == "__main__":
    print(document(), end="")
