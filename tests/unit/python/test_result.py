"""Curves of a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import SidewaysError
from coordinator.python.result import read_result, result

LINES = [
    {"time": 1, "kind": "progress", "stage": 0, "tick": 4, "learning_rate": 0.1},
    {"time": 1, "kind": "progress", "stage": 1, "tick": 3, "learning_rate": 0.2, "loss": 1.5, "accuracy": 0.5},
    {"time": 2, "kind": "evaluation", "tick": 5, "train_seconds": 2.0, "val_top1": 0.25},
    {"time": 2, "kind": "restart", "tick": 5, "restarts": 1, "recovery_seconds": 3.0},
    {"time": 3, "kind": "progress", "stage": 1, "tick": 7, "learning_rate": 0.2, "loss": None},
]


def test_curves_are_the_top_stages_and_the_evaluations(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "summary.json").write_text('{"ticks": 8}')
    result = read_result(tmp_path)
    assert result.summary == {"ticks": 8}
    assert set(result.curves) == {"loss", "accuracy", "learning_rate", "val_top1"}
    np.testing.assert_array_equal(result.curves["loss"], [[3, 1.5], [7, np.nan]])
    np.testing.assert_array_equal(result.curves["val_top1"], [[5, 0.25]])
    told = f"Result('{tmp_path}', ticks = 8; curves: learning_rate, loss, accuracy, val_top1)"
    assert sorted(repr(result)) == sorted(told)


def test_a_run_that_is_not_over_has_a_result_without_a_summary(tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="is no run directory"):
        result(tmp_path)
    (tmp_path / "run.toml").touch()
    assert result(str(tmp_path)).curves == {}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINES[1]) + '\n{"time": 2, "ki')
    found = result(tmp_path)
    assert (found.directory, found.summary) == (tmp_path, {})
    np.testing.assert_array_equal(found.curves["loss"], [[3, 1.5]])


def test_a_point_of_replicas_is_their_mean(tmp_path: Path) -> None:
    lines = [{**LINES[1], "replica": replica, "loss": loss} for replica, loss in ((0, 1.0), (1, 2.0))]
    (tmp_path / "run.toml").touch()
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.testing.assert_array_equal(result(tmp_path).curves["loss"], [[3, 1.5]])
