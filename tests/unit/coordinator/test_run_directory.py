"""The run directory."""

import json
from pathlib import Path

import pytest

from common.errors import SidewaysError
from coordinator.run_directory import RunDirectory


def test_two_processes_cannot_use_one_run_directory(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path)
    with pytest.raises(SidewaysError, match="another process is training in"):
        RunDirectory(tmp_path)
    first.close()
    RunDirectory(tmp_path).close()


def test_non_finite_numbers_are_written_as_null(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metric({"kind": "progress", "tick": 3, "loss": float("nan"), "gradient_norm": float("inf"), "rows": 2})
    run.metric({"kind": "probe", "tick": 3, "stages": [{"stage": 0, "cosine": float("nan")}]})
    run.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    line, probe = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines]
    assert (line["loss"], line["gradient_norm"], line["rows"]) == (None, None, 2)
    assert probe["stages"] == [{"stage": 0, "cosine": None}]


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_resumed_run_drops_the_metrics_of_ticks_it_repeats(tmp_path: Path, evaluated: bool) -> None:
    run = RunDirectory(tmp_path)
    for tick in (10, 49, 50, 70):
        run.metric({"kind": "progress", "tick": tick})
    for tick in (50, 60):
        run.metric({"kind": "evaluation", "tick": tick})
    run.metric({"kind": "restart", "tick": 70})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "progress", "tick": 4')  # killed while writing
    run.truncate_from(50, evaluated)
    run.metric({"kind": "progress", "tick": 51})
    run.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kept = [(line["kind"], line["tick"]) for line in lines]
    at = [("evaluation", 50)] if evaluated else []
    assert kept == [("progress", 10), ("progress", 49), *at, ("restart", 70), ("progress", 51)]
