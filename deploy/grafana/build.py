"""Generate the dashboards in deploy/grafana/dashboards.

python deploy/grafana/build.py
"""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="sideways")
RUN, STAGE = 'run=~"$run"', 'run=~"$run", stage=~"$stage"'
WINDOW = "[$__rate_interval]"
PARTS = {"compute": "compute", "receive-wait": "receive_wait", "send-wait": "send_wait", "data-wait": "data_wait"}
BY_RUN, BY_STAGE, BY_PROCESS = "{{run}}", "{{run}} stage {{stage}}", "{{run}} {{process}}"


@dataclass(frozen=True)
class Panel:
    """A panel with queries by legend. With `stat` it shows the latest values instead of curves."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    stat: bool = False


def rate(metric: str, labels: str = RUN) -> str:
    """A counter's increase per second."""
    return f"rate({metric}{{{labels}}}{WINDOW})"


def share(part: str, labels: str = RUN) -> str:
    """The share of a stage's time that a part of its ticks takes."""
    return f"{rate(f'sideways_tick_{part}_seconds_sum', labels)} / {rate('sideways_tick_seconds_sum', labels)}"


def quantile(q: float, metric: str) -> str:
    """A quantile of a histogram, by stage."""
    return f"histogram_quantile({q}, sum by (run, stage, le) ({rate(f'{metric}_bucket', STAGE)}))"


def gauge(metric: str, labels: str = RUN) -> str:
    """A metric without aggregation."""
    return f"{metric}{{{labels}}}"


TICKS = f"max by (run) ({rate('sideways_ticks_total')})"
AGE = f"time() - {gauge('sideways_checkpoint_timestamp_seconds')}"

OVERVIEW = {
    "Progress": [
        Panel("Progress", "Share of the planned ticks that are done", "percentunit", {BY_RUN: (
            f"(max by (run) ({gauge('sideways_current_tick')}) + 1) / on (run) {gauge('sideways_planned_ticks')}"
        )}, stat=True),
        Panel("Ticks per second", "0 during a validation", "short", {BY_RUN: TICKS}, stat=True),
        Panel("Frames per second", "Fed into the pipeline in training and in validation", "short", {
            "{{run}} {{phase}}": rate("sideways_frames_total")
        }, stat=True),
        Panel("Checkpoint age", "Progress that a failure would lose now", "s", {BY_RUN: AGE}, stat=True),
        Panel("Restarts", "By the launcher", "short", {BY_RUN: gauge("sideways_restarts_total")}, stat=True),
        Panel("Replicas", "Copies of every stage", "short", {BY_RUN: gauge("sideways_replicas")}, stat=True),
        Panel("Processes up", "Coordinator and stages that answer scrapes", "short", {
            BY_RUN: f'sum by (run) (up{{job="sideways", {RUN}}})'
        }, stat=True),
    ],
    "Is it learning?": [
        Panel("Loss", "Mean over the ticks of the last report", "short", {BY_RUN: gauge("sideways_loss")}),
        Panel("Accuracy", "On training rows, and the score on the validation data", "short", {
            "{{run}} training": gauge("sideways_accuracy_ratio"),
            "{{run}} validation": gauge("sideways_validation_score"),
        }),
        Panel("Validation", "Figures of the last evaluation", "short", {
            "{{run}} {{figure}}": gauge("sideways_validation_figure")
        }),
        Panel("Pseudo-gradient cosine", "To backpropagation's gradient: 1 is the same direction", "short", {
            BY_STAGE: gauge("sideways_pseudo_gradient_cosine")
        }),
        Panel("Gradient norm", "By stage", "short", {BY_STAGE: gauge("sideways_gradient_norm")}),
        Panel("Gated share", "Gradient rows dropped at clip boundaries: high if clips are short", "percentunit", {
            BY_STAGE: f"{rate('sideways_gated_rows_total')} / {rate('sideways_gradient_rows_total')}"
        }),
        Panel("Learning rate", "By stage", "short", {BY_STAGE: gauge("sideways_learning_rate")}),
    ],
    "Is every stage busy? What does it wait for?": [
        Panel("Busy", "Share of its time that a stage computes: near 1 for the slowest stage", "percentunit", {
            BY_STAGE: share("compute")
        }),
        Panel("Receive wait", "Waiting for a neighbour's message: it or the network is slower", "percentunit", {
            BY_STAGE: share("receive_wait")
        }),
        Panel("Send wait", "Waiting until a neighbour has accepted a message", "percentunit", {
            BY_STAGE: share("send_wait")
        }),
        Panel("Data wait", "Stage 0 waiting for frames: reading the data is the bottleneck", "percentunit", {
            BY_STAGE: share("data_wait")
        }),
        Panel("Batches queued for stage 0", "Near 0: reading the data is slower than the stages", "short", {
            "{{run}} {{queue}}": gauge("sideways_queue_depth")
        }),
        Panel("Reading", "Time waiting for decoded frames (read), and passing them on (feed)", "percentunit", {
            "{{run}} {{reader}} {{work}}": rate("sideways_reader_seconds_total")
        }),
        Panel("Dropped frames per second", "From live sources, which do not wait", "short", {
            BY_RUN: rate("sideways_dropped_frames_total")
        }),
    ],
}  # fmt: skip

STAGES = {
    "Where a tick's time goes": [
        Panel("Tick time", "Median and 99th percentile, including waits", "s", {
            f"{BY_STAGE} p50": quantile(0.5, "sideways_tick_seconds"),
            f"{BY_STAGE} p99": quantile(0.99, "sideways_tick_seconds"),
        }),
        Panel("Parts of a tick", "Shares; the rest up to 1 is overhead", "percentunit", {
            f"{BY_STAGE} {name}": share(part, STAGE) for name, part in PARTS.items()
        }),
        *(
            Panel(f"{name.capitalize()} per tick", "Median and 99th percentile", "s", {
                f"{BY_STAGE} p50": quantile(0.5, f"sideways_tick_{part}_seconds"),
                f"{BY_STAGE} p99": quantile(0.99, f"sideways_tick_{part}_seconds"),
            })
            for name, part in PARTS.items()
        ),
    ],
    "What a stage does": [
        Panel("Ticks per second", "Equal for all stages, except for short moments", "short", {
            BY_STAGE: rate("sideways_ticks_total", STAGE)
        }),
        Panel("Sent", "By edge: forward to the next stage, backward to the previous one", "Bps", {
            f"{BY_STAGE} {{{{way}}}}": rate("sideways_edge_bytes_total", STAGE)
        }),
        Panel("Mismatch", "Frames between a stage's input and its gradient", "short", {
            BY_STAGE: gauge("sideways_mismatch_frames", STAGE)
        }),
        Panel("Edge ticks", "From sending to using between a stage and the next", "short", {
            BY_STAGE: gauge("sideways_edge_ticks", STAGE)
        }),
        Panel("Tick time by process", "Mean; with replicas the slowest of a stage sets the pace", "s", {
            BY_PROCESS: f"{rate('sideways_tick_seconds_sum', STAGE)} / {rate('sideways_tick_seconds_count', STAGE)}"
        }),
        Panel("Gradient norm", "At the last tick of the last report", "short", {
            BY_STAGE: gauge("sideways_gradient_norm", STAGE)
        }),
        Panel("Pseudo-gradient norm ratio", "To the norm of backpropagation's gradient, in the last probe", "short", {
            BY_STAGE: gauge("sideways_pseudo_gradient_norm_ratio", STAGE)
        }),
        Panel("Dropped reports", "The coordinator was too slow to receive them", "short", {
            BY_STAGE: gauge("sideways_dropped_reports_total", STAGE)
        }),
    ],
}  # fmt: skip

SYSTEM = {
    "Processes": [
        Panel("Host memory", "Resident memory, including libraries", "bytes", {
            BY_PROCESS: gauge("process_resident_memory_bytes")
        }),
        Panel("CUDA memory", "Of tensors; 0 on the CPU", "bytes", {BY_STAGE: gauge("sideways_cuda_memory_bytes")}),
        Panel("Peak memory of the stages", "In addition to the process's memory before the stage was built", "bytes", {
            BY_STAGE: gauge("sideways_peak_memory_bytes")
        }),
        Panel("CPU use", "CPU seconds per second", "short", {BY_PROCESS: rate("process_cpu_seconds_total")}),
        Panel("Open files", "The coordinator has one per slot", "short", {BY_PROCESS: gauge("process_open_fds")}),
        Panel("Up", "1 if the process answers scrapes", "short", {BY_PROCESS: f'up{{job="sideways", {RUN}}}'}),
    ],
    "Network": [
        Panel("Sent by stages", "Activations and gradients", "Bps", {
            f"{BY_STAGE} {{{{way}}}}": rate("sideways_edge_bytes_total", f'{RUN}, way=~"forward|backward"')
        }),
        Panel("Sent by coordinator and readers", "Frames and frame-sized targets", "Bps", {
            "{{run}} {{stage}} {{way}}": rate("sideways_edge_bytes_total", f'{RUN}, way=~"frames|targets"')
        }),
        Panel("Reconnects to live sources", "Since the process started", "short", {
            BY_RUN: gauge("sideways_reconnects_total")
        }),
    ],
    "Checkpoints, clip errors, restarts": [
        Panel("Checkpoint age", "Progress that a failure would lose now", "s", {BY_RUN: AGE}),
        Panel("Checkpoint duration", "Time to write a checkpoint in the background", "s", {
            BY_RUN: gauge("sideways_checkpoint_duration_seconds")
        }),
        Panel("Checkpoint size", "Of all stages together", "bytes", {BY_RUN: gauge("sideways_checkpoint_size_bytes")}),
        Panel("Checkpoints saved and failed", "In this attempt of the run", "short", {
            "{{run}} saved": gauge("sideways_checkpoints_total"),
            "{{run}} failed": gauge("sideways_checkpoint_failures_total"),
        }),
        Panel("Clips with errors", "The reasons are in the run's output", "short", {
            "{{run}} {{kind}}": gauge("sideways_clip_mishaps_total")
        }),
        Panel("Restarts and recovery time", "Of the last recovery, in seconds", "short", {
            "{{run}} restarts": gauge("sideways_restarts_total"),
            "{{run}} seconds to recover": gauge("sideways_recovery_seconds"),
        }),
        Panel("Healing", "Ticks whose updates the lost stages had not kept when the run healed last", "short", {
            BY_RUN: gauge("sideways_lost_ticks")
        }),
    ],
}  # fmt: skip

DASHBOARDS = {"overview": ("Sideways", OVERVIEW), "stages": ("Sideways: stages", STAGES),
              "system": ("Sideways: system", SYSTEM)}  # fmt: skip


def built(name: str) -> str:
    """A dashboard as JSON text."""
    title, rows = DASHBOARDS[name]
    board = dashboard.Dashboard(title).uid(f"sideways-{name}").tags(["sideways"]).refresh("5s").time("now-30m", "now")
    board = (
        board.timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(_variable("run", "sideways_planned_ticks"))
    )
    if name == "stages":
        board = board.with_variable(_variable("stage", 'sideways_ticks_total{run=~"$run"}'))
    number = count(1)
    for row, panels in rows.items():
        board = board.with_row(dashboard.Row(row).id(next(number)))
        for panel in panels:
            board = board.with_panel(_panel(panel).id(next(number)))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


def _variable(label: str, metric: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(label).query(f"label_values({metric}, {label})").datasource(SOURCE)
    variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return variable.multi(True).include_all(True).all_value(".*").current(VariableOption(text="All", value="$__all"))


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    builder = stat.Panel() if panel.stat else timeseries.Panel()
    builder = builder.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    builder = builder.height(4 if panel.stat else 7).span(4 if panel.stat else 8)
    for letter, (legend, query) in zip(ascii_uppercase, panel.queries.items(), strict=False):
        builder = builder.with_target(prometheus.Dataquery().ref_id(letter).expr(query).legend_format(legend))
    return builder


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(built(name), encoding="utf-8")
