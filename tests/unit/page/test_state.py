"""The state that the page shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.config.settings import Report
from common.messages.stage_report import Progress
from common.rule.schedule import Schedule
from coordinator.monitor.listener import ProgressEvent
from coordinator.monitor.run_totals import RunTotals, StageTotals
from coordinator.page.http_app import ADDRESS, PageServer
from coordinator.page.state import PageState
from tests.support.page import Served, config_of, progress

REPORT: dict[str, Any] = {
    "attempt": 0, "dropped": 0, "tick": 59, "ticks": 2, "seconds": 0.02, "compute_seconds": 0.01,
    "receive_wait_seconds": 0.001, "send_wait_seconds": 0.0, "data_wait_seconds": 0.0, "rows": 8, "gated": 0,
    "gradient_norm": None, "rate": 0.1, "peak_memory_bytes": 1, "bytes_forward": 0, "bytes_backward": 0,
}  # fmt: skip
NUMBERS = {"sideways_training": 1.0, 'sideways_frames_total{phase="training"}': 12.0, "sideways_loss": float("nan")}


def test_the_state_contains_all_reported_figures(served: Served, tmp_path: Path) -> None:
    early = served.state()
    assert (early["status"]["state"], early["pipeline"]["tick"], early["ticks_per_second"]) == ("starting", -1, None)
    assert [stage["frame"] for stage in early["pipeline"]["stages"]] == [None] * 3
    page = served.page
    page.split(["a", "b", "c", "d"], [1, 2, 1])
    page.running(config_of(), 0, lambda: NUMBERS, "val_map")
    page.state("running", "", 0)
    for stage in range(3):
        page.line(progress(stage, 41), tick=42, loss=0.5, accuracy=float("nan"))
    page.line(progress(2, 45, loss=0.25, accuracy=0.75, gradient_norm=3.5))
    page.line(progress(2, 46, loss=None))
    scored = {"kind": "evaluation", "tick": 46, "val_top1": 0.625, "val_map": 0.5, "val_clips": 3}
    page.line(scored, evaluation={"val_top1": 0.625})
    page.line({"kind": "restart", "tick": 40, "restarts": 1, "recovery_seconds": 4.5})
    page.line({"kind": "set", "tick": 40, "optimiser.lr": 1.0})
    served.warnings.append("again")
    state = served.state()
    status = state.pop("status")
    assert (status["name"], status["state"], status["tick"], status["planned"]) == (tmp_path.name, "running", 42, 100)
    assert (status["loss"], status["accuracy"], status["evaluation"]) == (0.5, None, {"val_top1": 0.625})
    assert [stage["stage"] for stage in status["stages"]] == [0, 1, 2]
    assert status["stages"][2]["gradient_norm"] == 3.5
    pipeline = state.pop("pipeline")
    assert [stage.pop("blocks") for stage in pipeline["stages"]] == [["a"], ["b", "c"], ["d"]]
    assert pipeline == {"tick": 41, "origin": 0, "stages": [
        {"frame": 41, "gradient": 37, "mismatch": 4, "skips": []},
        {"frame": 40, "gradient": 38, "mismatch": 2, "skips": []},
        {"frame": 39, "gradient": 39, "mismatch": 0, "skips": []},
    ]}  # fmt: skip
    assert state == {
        "score": "val_map",
        "slots": 4,
        "ticks_per_second": 100.0,
        "frames_per_second": 400.0,
        "numbers": {**NUMBERS, "sideways_loss": None},
        "curves": {
            "loss": [[45, 0.25]], "accuracy": [[45, 0.75]], "val_top1": [[46, 0.625]], "val_mse": [],
            "val_map": [[46, 0.5]],
        },
        "restarts": [{"kind": "restart", "tick": 40, "restarts": 1, "recovery_seconds": 4.5}],
        "replicas": [[
            {"state": "busy", "tick": tick, "waits": 0.35, "waits_for": "neighbours"} for tick in (41, 41, 46)
        ]],
        "readers": 0,
        "warnings": ["beware", "again"],
        "video": False,
    }  # fmt: skip


@pytest.mark.parametrize("algorithm", ["sideways", "backprop"])
def test_frames_follow_the_schedule_also_after_a_resume(tmp_path: Path, algorithm: str) -> None:
    page = PageState(config_of(algorithm=algorithm), tmp_path, 100, PageServer(Report(), None), [])
    page.running(config_of(algorithm=algorithm), 20, dict)
    schedule = Schedule(3)
    for done in range(18, 30):
        page.state("running", "", done)
        stages = json.loads(page.answer())["pipeline"]["stages"]
        for number, stage in enumerate(stages):
            rows = [schedule.frame(number, done - 21), schedule.gradient(number, done - 21)]
            if algorithm == "backprop":
                rows = [done - 21 if done > 20 else None] * 2
            assert [stage["frame"], stage["gradient"]] == [None if row is None else row + 20 for row in rows]


def test_frames_follow_edge_ticks_that_were_measured_at_the_start(tmp_path: Path) -> None:
    page = PageState(config_of(network={"edge_ticks": "auto"}), tmp_path, 100, PageServer(Report(), None), [])
    page.running(config_of(network={"edge_ticks": [1, 3]}), 0, dict)
    page.state("running", "", 20)
    stages = json.loads(page.answer())["pipeline"]["stages"]
    schedule = Schedule(3, (1, 3))
    assert [stage["frame"] for stage in stages] == [schedule.frame(number, 19) for number in range(3)]
    assert [stage["mismatch"] for stage in stages] == [8, 6, 0]


def test_skips_are_named_by_their_sources(tmp_path: Path) -> None:
    page = PageState(config_of(skips=[[0, 2]]), tmp_path, 100, PageServer(Report(), None), [])
    page.state("running", "", 20)
    assert [stage["skips"] for stage in json.loads(page.answer())["pipeline"]["stages"]] == [[], [], [0]]


def test_other_replicas_are_shown_but_not_among_the_curves(tmp_path: Path) -> None:
    lines = [progress(2, 3, loss=0.5), progress(2, 3, loss=9.0) | {"replica": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = config_of(replicas=2)
    page = PageState(config, tmp_path, 100, PageServer(Report(), None), [])
    page.resumed(4, evaluated=False)
    report = Progress(**REPORT, stage=1, replica=1)
    page.replica_progress(ProgressEvent.of(report, RunTotals([StageTotals()], 4)))
    page.healed(60, {1: 20})
    state = json.loads(page.answer())
    assert state["curves"]["loss"] == [[3, 0.5]]
    assert [[cell["state"] for cell in row] for row in state["replicas"]] == [
        ["starting"] * 3,
        ["starting", "healing", "starting"],
    ]


def test_a_later_attempt_serves_the_page_at_the_same_address(tmp_path: Path) -> None:
    first = Served(tmp_path, config_of())
    for tick in (3, 6):
        first.page.line(progress(2, tick, loss=0.5))
    first.page.close("failed", "a stage is gone", 7)
    assert first.state()["status"]["message"] == "a stage is gone"
    first.close()
    lines = [progress(2, 3, loss=0.5), {"kind": "restart", "tick": 2, "restarts": 1, "recovery_seconds": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = Served(tmp_path, config_of(), resumed=tmp_path)
    assert second.url == first.url
    second.page.resumed(4, evaluated=False)
    second.page.line(progress(2, 9, loss=0.25))
    state = second.state()
    assert state["curves"]["loss"] == [[3, 0.5], [9, 0.25]]
    assert [restart["restarts"] for restart in state["restarts"]] == [1]
    second.page.close("finished", "", 9)
    second.close()
    assert not (tmp_path / ADDRESS).exists()
