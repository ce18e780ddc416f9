"""Runs whose processes hold several stages (stages_per_process): nothing but the number of processes differs."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from common.config.run_file import parse
from coordinator.launch.stage_processes import stage_processes
from tests.support.oracles import losses_of, same_model
from tests.support.processes import Background, sideways
from tests.support.settings import STRAIGHT, slow_run, write_run_file


def start(videos: Path, folder: Path, **changes: Any) -> Background:
    """Three stages in two processes."""
    return Background(write_run_file(folder / "run.toml", slow_run(videos, stages_per_process=2, **changes)))


def test_a_killed_process_of_two_stages_restarts_and_the_run_equals_an_undisturbed_one(
    videos: Path, straight: Path, tmp_path: Path
) -> None:
    run = start(videos, tmp_path, recovery__restarts=1, evaluate_every=120, data__val=str(videos / "val"))
    run.wait_for_tick(100)
    members = run.members()
    assert sorted(members) == ["coordinator", "stage0", "stage2"]
    os.kill(members["stage0"], signal.SIGKILL)
    assert run.end(100) == 0, run.output()
    assert "stages 0 to 1 (pid" in " ".join(run.output().split())
    folder = tmp_path / "runs" / "it"
    assert losses_of(folder) == losses_of(straight)
    assert same_model(folder, straight)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines if line["kind"] == "progress"} == {0, 1, 2}
    assert [line["tick"] for line in lines if line["kind"] == "evaluation"] == [120, STRAIGHT]


@pytest.mark.long
def test_a_run_may_be_resumed_with_other_processes(videos: Path, straight: Path, tmp_path: Path) -> None:
    run = start(videos, tmp_path)
    run.wait_for_tick(60)
    run.send(signal.SIGTERM)
    assert run.end(30) == 143
    done = sideways("train", "--resume", "runs/it", "--set", "stages_per_process=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "with the activations and gradients in flight" in done.stderr
    assert losses_of(tmp_path / "runs" / "it") == losses_of(straight)
    assert same_model(tmp_path / "runs" / "it", straight)


@pytest.mark.long
def test_the_stages_of_a_lost_process_heal(videos: Path, tmp_path: Path) -> None:
    healing = {"recovery__mode": "heal", "recovery__snapshot_every": 20, "recovery__restarts": 1}
    run = start(videos, tmp_path, **healing, checkpoint__every=0)
    run.wait_for_tick(100)
    os.kill(run.members()["stage0"], signal.SIGKILL)
    assert run.end(100) == 0, run.output()
    lines = map(json.loads, (tmp_path / "runs/it/metrics.jsonl").read_text().splitlines())
    [healed] = [line for line in lines if line["kind"] == "heal"]
    assert set(healed["lost_ticks"]) == {"0", "1"}


@pytest.mark.long
def test_the_stages_of_a_process_go_on_from_their_snapshots(videos: Path, straight: Path, tmp_path: Path) -> None:
    run = start(videos, tmp_path, recovery__snapshot_every=10, recovery__restarts=1, checkpoint__every=0)
    run.wait_for_tick(100)
    os.kill(run.members()["stage0"], signal.SIGKILL)
    assert run.end(100) == 0, run.output()
    folder = tmp_path / "runs" / "it"
    assert losses_of(folder) == losses_of(straight)
    assert same_model(folder, straight)
    assert "from the beginning" not in run.output()


@pytest.mark.parametrize(
    ("gpus", "stages", "replicas", "per_process", "processes"),
    [
        (0, 4, 1, "auto", 4),
        (4, 4, 1, "auto", 4),
        (1, 4, 1, "auto", 1),
        (2, 5, 1, "auto", 2),
        (3, 4, 1, "auto", 2),
        (4, 4, 2, "auto", 2),
        (1, 2, 2, "auto", 1),
        (0, 5, 1, 2, 3),
        (2, 4, 1, 1, 4),
    ],
)
def test_by_default_the_stages_of_a_gpu_share_a_process(
    monkeypatch: pytest.MonkeyPatch, gpus: int, stages: int, replicas: int, per_process: int | str, processes: int
) -> None:
    monkeypatch.setattr("coordinator.launch.stage_processes.count_gpus", lambda: gpus)
    tree: dict[str, Any] = {"ticks": 1, "stages": stages, "replicas": replicas, "stages_per_process": per_process}
    assert stage_processes(parse({**tree, "data": {"train": ".", "slots": 4}}, "test")) == processes
    if per_process == "auto":
        assert stage_processes(parse({**tree, "device": "cpu", "data": {"train": ".", "slots": 4}}, "test")) == stages
