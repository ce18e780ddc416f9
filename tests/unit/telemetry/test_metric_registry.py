"""What is shown to Prometheus: names by its conventions, numbers that are right, a port that is guarded."""

import contextlib
import json
import math
import re
import socket
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from common.config.run_file import parse
from common.config.settings import Metrics
from common.errors import ConfigError
from common.processes.membership import Membership
from common.telemetry.http_server import serve
from common.telemetry.metric_catalogue import METRICS, document
from common.telemetry.metric_registry import Board
from coordinator.monitor.prometheus import RunMetrics
from deploy.grafana.build import DASHBOARDS, FOLDER, built
from stage_worker.reporting.prometheus import StageMetrics, TickTimes
from stage_worker.reporting.reported_loop import Times
from tests.support.processes import free_ports
from tests.support.reports import evaluation_event, progress, progress_event

ROOT = Path(__file__).parents[3]


def shown(board: Board) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(board.registry).decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("sideways")]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def test_the_document_and_the_dashboards_are_what_the_code_makes() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == document(), (
        "run python -m common.telemetry.metric_catalogue > docs/metrics.md"
    )
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)
    for name in DASHBOARDS:
        assert (FOLDER / f"{name}.json").read_text() == built(name), "run python deploy/grafana/build.py"


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"sideways_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith("_total"), "the exposition adds it"
        assert metric.name.endswith(f"_{metric.unit}") or not metric.unit


def test_numbers_are_shown_as_they_are() -> None:
    board = Board(stage="2")
    board.add("sideways_edge_bytes", 0, way="backward")
    board.add("sideways_edge_bytes", 40, way="forward")
    board.add("sideways_edge_bytes", 2, way="forward")
    board.set("sideways_loss", float("nan"))
    board.set("sideways_loss", 0.5)
    numbers = iter((7, 8))
    board.watch("sideways_dropped_frames", lambda: next(numbers))
    first, second = shown(board), shown(board)
    assert first == {
        ("sideways_edge_bytes_total", (("stage", "2"), ("way", "forward"))): 42,
        ("sideways_edge_bytes_total", (("stage", "2"), ("way", "backward"))): 0,
        ("sideways_loss", (("stage", "2"),)): 0.5,
        ("sideways_dropped_frames_total", ()): 7,
    }
    assert second["sideways_dropped_frames_total", ()] == 8


def test_every_tick_is_in_the_histograms_once() -> None:
    """More ticks than there are rows, sums that are zeroed at some of the reports."""
    board = Board(stage="0")
    times = TickTimes(board)
    random = np.random.default_rng(0)
    ticks = random.choice([0.0001, 0.003, 0.2, 50.0], size=(10000, 4))
    times.begin()
    sums = np.zeros(4)
    for number, parts in enumerate(ticks):
        sums += parts
        a, b, c, d = sums.tolist()
        times.note(Times(a, b, c, d))
        if number % 6000 == 4999:
            times.fold(zeroed=True)
            sums[:] = 0
    times.fold(zeroed=True)
    times.fold(zeroed=True)
    found = shown(board)
    labels = (("stage", "0"),)
    for column, part in enumerate(("compute", "receive_wait", "send_wait", "data_wait")):
        name = f"sideways_tick_{part}_seconds"
        assert found[f"{name}_count", labels] == 10000
        assert found[f"{name}_sum", labels] == pytest.approx(ticks[:, column].sum())
        for edge in ("0.0001220703125", "0.00390625", "0.25", "32.0"):
            below = int((ticks[:, column] <= float(edge)).sum())
            assert found[f"{name}_bucket", (("le", edge), *labels)] == below
    assert found["sideways_tick_seconds_count", labels] == 10000


def test_a_stages_report_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse({"ticks": 1, "stages": 3, "data": {"train": ".", "slots": 4}}, "test")
    monkeypatch.setattr("stage_worker.reporting.prometheus.serve", lambda *_: "here:1")
    metrics = StageMetrics(config.metrics, cast(Membership, SimpleNamespace(stage=1, local_stage=0, address="here")))
    metrics.configured(config, torch.device("cpu"))
    metrics.begin()
    report = progress(
        stage=1, tick=19, ticks=10, rows=40, gated=8, rate=0.25, peak_memory_bytes=5, dropped=1,
        bytes_forward=70, bytes_backward=30, loss=float("nan"), losses_held=10, correct=20,
    )  # fmt: skip
    for _ in range(2):
        metrics.reported(report)
    found = shown(metrics._board)
    assert math.isnan(found.pop(("sideways_loss", (("stage", "1"),))))
    assert {name.removeprefix("sideways_"): value for (name, labels), value in found.items() if len(labels) == 1} == {
        "ticks_total": 20, "gradient_rows_total": 80, "gated_rows_total": 16, "dropped_reports_total": 1,
        "current_tick": 19, "learning_rate": 0.25, "peak_memory_bytes": 5, "cuda_memory_bytes": 0,
        "mismatch_frames": 2, "accuracy_ratio": 0.5,
    }  # fmt: skip
    edges = {dict(labels)["way"]: value for (name, labels), value in found.items() if "edge" in name}
    assert edges == {"forward": 140, "backward": 60}


def test_the_coordinator_counts_and_says_who_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEWAYS_RESTARTS", "2")
    monkeypatch.setattr("coordinator.monitor.prometheus.serve", lambda *_: "here:1")
    config = parse({"ticks": 1, "stages": 2, "data": {"train": ".", "slots": 4}, "metrics": {"port": 1}}, "test")
    metrics = RunMetrics(config, planned=1000, first=100)
    metrics.serve("here", ["here:2", "there:3"])
    metrics.announce(tmp_path / "it")
    groups = json.loads((tmp_path / "it.targets.json").read_text())
    assert {group["labels"]["process"]: group["targets"] for group in groups} == {
        "coordinator": ["here:1"], "stage 0": ["here:2"], "stage 1": ["there:3"],
    }  # fmt: skip
    assert {group["labels"]["run"] for group in groups} == {"it"}
    metrics.fed = 10
    metrics.progress(progress_event(tick=105))  # ticks 100 … 105 took six batches of ten
    metrics.progress(progress_event(stage=1, tick=104))
    metrics.evaluated(evaluation_event(9, {}, clips=3, frames=50, top1=0.75))
    metrics.probed({"stages": [{"stage": 0, "cosine": 0.5, "norm_ratio": None}]})
    metrics.training(True)
    metrics.restarted(105, 2, 4.5)
    found = shown(metrics.board)
    assert found == {
        ("sideways_planned_ticks", ()): 1000,
        ("sideways_frames_total", (("phase", "training"),)): 40,
        ("sideways_frames_total", (("phase", "evaluation"),)): 50,
        ("sideways_queue_depth", (("queue", "frames"),)): 4,
        ("sideways_validation_score", ()): 0.75,
        ("sideways_pseudo_gradient_cosine", (("stage", "0"),)): 0.5,
        ("sideways_training", ()): 1,
        ("sideways_restarts_total", ()): 2,
        ("sideways_recovery_seconds", ()): 4.5,
    }
    metrics.close("finished", "", 106)
    assert list(tmp_path.iterdir()) == []


def fetch(address: str, login: str | None = None) -> int:
    request = urllib.request.Request(f"http://{address}/metrics")
    if login is not None:
        request.add_header("Authorization", "Basic " + b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status if b"sideways_loss" in answer.read() else 0
    except urllib.error.HTTPError as error:
        return error.code


def test_a_port_is_guarded_by_a_password(tmp_path: Path) -> None:
    board = Board(stage="0")
    board.set("sideways_loss", 1)
    (tmp_path / "password").write_text("watcher:s3:cret\n")
    address = serve(board.registry, Metrics(port=free_ports(2), password_file=tmp_path / "password"), 1, "")
    assert fetch(address) == fetch(address, "watcher:wrong") == fetch(address, "watcher") == 401
    assert fetch(address, "watcher:s3:cret") == 200
    host, _, port = address.partition(":")
    place = host, int(port)
    with contextlib.ExitStack() as dawdlers:
        for _ in range(15):  # in nobody's way
            dawdlers.enter_context(socket.create_connection(place, timeout=10)).send(b"GET /met")
        assert fetch(address, "watcher:s3:cret") == 200

        def crowd() -> None:
            for _ in range(5):  # the one just served may still be leaving, and keep the first of these out
                dawdlers.enter_context(socket.create_connection(place, timeout=10)).send(b"GET /met")
                fetch(address, "watcher:s3:cret")

        with pytest.raises(OSError, match=r"closed|reset"):
            crowd()


def test_what_cannot_be_served_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use\. Set metrics\.port"):
            serve(Board(stage="0").registry, Metrics(port=port - 1), 1, "")
    for content, message in ((b"", "one line"), (b"a:b\nc:d", "one line"), (b"\xff:x", "cannot be read")):
        (tmp_path / "password").write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            serve(Board(stage="0").registry, Metrics(port=1024, password_file=tmp_path / "password"), 0, "")


def test_no_more_than_what_is_in_the_table_is_asked_for() -> None:
    """A dashboard or an alert that names a metric which does not exist would just stay empty."""
    known = {metric.shown for metric in METRICS if metric.kind != "histogram"}
    known |= {f"{m.name}_{end}" for m in METRICS if m.kind == "histogram" for end in ("bucket", "sum", "count")}
    text = (ROOT / "deploy/prometheus/alerts.yml").read_text() + "".join(built(name) for name in DASHBOARDS)
    asked = set(re.findall(r"sideways_[a-z_]+", text))
    assert asked <= known
    assert known - asked <= {f"{m.name}_bucket" for m in METRICS} | {f"{m.name}_count" for m in METRICS}
