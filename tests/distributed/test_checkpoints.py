"""A run that was interrupted anywhere resumes bit for bit, or, with another number of stages, warms up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from common.config.run_file import parse
from tests.support.oracles import backpropagation_run, losses_of, reference_run, replicated_run, same_model
from tests.support.processes import Background, environment, sideways, train
from tests.support.settings import STRAIGHT, config_of, slow_run, write_run_file
from tests.support.waiting import gone, wait_until


def resume(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = sideways("train", "--resume", "runs/it", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


def killed_after_tick_100(folder: Path, tree: dict[str, Any]) -> Path:
    """The directory of a run all of whose processes were killed, with a checkpoint of tick 100."""
    background = Background(write_run_file(folder / "run.toml", tree))
    background.wait_for_tick(100)
    run = folder / "runs" / "it"
    wait_until((run / "checkpoints/0000000100").is_dir)
    pids = [*background.members().values(), background.process.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert background.end(10) == -9
    assert gone(pids, 10)
    return run


def test_a_run_resumed_after_kill_9_of_all_processes_equals_an_uninterrupted_one(
    videos: Path, straight: Path, tmp_path: Path
) -> None:
    tree = slow_run(videos, checkpoint__every=100, ticks=10**6)
    run = killed_after_tick_100(tmp_path, tree)
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()] == ["0000000100"]
    done = resume(tmp_path, "--set", f"ticks={STRAIGHT}")
    assert "resumed from runs/it/checkpoints/0000000100 at tick 100, with the activations" in done.stderr
    assert losses_of(run) == losses_of(straight)
    assert same_model(run, straight)


@pytest.mark.long
def test_a_run_with_edges_of_several_ticks_may_be_stopped_at_any_tick(videos: Path, tmp_path: Path) -> None:
    """Its stages are up to ten ticks ahead of the frames that were sent."""
    tree = slow_run(videos, network__edge_ticks=[6, 4], checkpoint__every=0)
    losses, _ = reference_run(parse(tree, "test"))
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(60)
    background.send(signal.SIGTERM)
    assert background.end(30) == 143
    run = tmp_path / "runs" / "it"
    assert 60 < json.loads((run / "summary.json").read_text())["ticks"] < STRAIGHT
    resume(tmp_path)
    assert losses_of(run) == losses


@pytest.mark.long
def test_a_run_stopped_in_the_middle_of_clips_resumes_bit_for_bit(videos: Path, straight: Path, tmp_path: Path) -> None:
    background = Background(write_run_file(tmp_path / "run.toml", slow_run(videos, checkpoint__every=0)))
    background.wait_for_tick(60)
    background.send(signal.SIGTERM)
    assert background.end(30) == 143
    run = tmp_path / "runs" / "it"
    stopped = json.loads((run / "summary.json").read_text())["ticks"]
    assert 60 < stopped < STRAIGHT
    done = resume(tmp_path)
    assert f"at tick {stopped}, with the activations and gradients in flight" in done.stderr
    assert losses_of(run) == losses_of(straight)
    assert same_model(run, straight)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {
            "task": "predict",
            "model": "autoencoder",
            "ahead": 3,
            "rule__every": 3,
            "optimiser__ema": 0.9,
            "optimiser__orthogonal": 0.9,
            "data__slots": 3,
        },
        {
            "algorithm": "1f1b",
            "data__slots": 6,
            "evaluate_every": 30,
            "model_args": {"width": 4, "temporal": "conv"},
        },
        {"model_args": {"width": 4, "temporal": "shift"}, "evaluate_every": 30, "data__slots": 3},
        {"task": "predict", "model": "autoencoder", "network__edge_ticks": [2, 4], "data__slots": 3},
        {
            "skips": [[0, 2]],
            "network__edge_ticks": 3,
            "network__transport": "gloo",
            "network__wire": "bfloat16",
            "evaluate_every": 20,
            "data__slots": 3,
        },
        {
            "skips": [[0, 2]],
            "network__wire": "int8",
            "network__edge_ticks": [2, 1],
            "evaluate_every": 20,
            "data__slots": 3,
        },
        {
            "model_args": {"width": 4, "norm": "batch"},
            "norm": "frozen",
            "optimiser__rates": {"conv1": 0.1, "conv4.*": 0.3},
            "evaluate_every": 30,
            "data__slots": 3,
        },
        {
            "memory_format": "channels_last",
            "model_args": {"width": 4, "temporal": "motion"},
            "rule__every": 3,
            "optimiser__ema": 0.9,
            "evaluate_every": 30,
            "data__slots": 3,
        },
    ],
    ids=["predict", "1f1b", "memory", "edges", "edges-gloo-bfloat16", "edges-int8", "frozen-norms", "channels-last"],
)
def test_a_resumed_run_keeps_targets_in_flight_gathered_gradients_and_the_weight_average(
    videos: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Also with an evaluation before the interruption."""
    small = {"model_args": {"width": 4}, "data__size": 16, "stages": 3, "name": "it", **changes}
    run = backpropagation_run if "algorithm" in changes else reference_run
    losses, parameters = run(config_of(videos, **small, ticks=STRAIGHT))
    half = train(tmp_path, slow_run(videos, **small, data__val=str(videos / "val"), ticks=100))
    resume(tmp_path, "--set", f"ticks={STRAIGHT}")
    assert losses_of(half) == losses
    model = load_file(half / "model.safetensors")
    assert all(torch.equal(model[name], parameters[name]) for name in parameters)


@pytest.mark.long
def test_resumed_replicas_keep_what_each_has_in_flight_and_gathered(videos: Path, tmp_path: Path) -> None:
    small = {
        "model_args": {"width": 4, "temporal": "shift"},
        "data__size": 16,
        "stages": 2,
        "replicas": 2,
        "name": "it",
    }
    changes = {**small, "rule__every": 3, "optimiser__ema": 0.9, "data__slots": 4}
    losses, parameters = replicated_run(config_of(videos, **changes, ticks=STRAIGHT))
    half = train(tmp_path, slow_run(videos, **changes, data__val=str(videos / "val"), evaluate_every=30, ticks=100))
    resume(tmp_path, "--set", f"ticks={STRAIGHT}")
    assert [losses_of(half, replica) for replica in range(2)] == losses
    model = load_file(half / "model.safetensors")
    assert all(torch.equal(model[name], parameters[name]) for name in parameters)


@pytest.mark.long
def test_replicas_resume_with_what_their_auxiliary_classifiers_have_gathered(videos: Path, tmp_path: Path) -> None:
    """At tick 100 stage 0 has done 98 ticks, and gathered two of three gradients."""
    small = {"model_args": {"width": 4}, "data__size": 16, "data__slots": 4, "stages": 2, "replicas": 2}
    tree = slow_run(videos, **small, rule__every=3, rule__auxiliary=0.3, checkpoint__every=100)
    losses, parameters = replicated_run(parse(tree, "test"))
    run = killed_after_tick_100(tmp_path, tree)
    assert "at tick 100, with the activations" in resume(tmp_path).stderr
    assert [losses_of(run, replica) for replica in range(2)] == losses
    model = load_file(run / "model.safetensors")
    assert all(torch.equal(model[name], parameters[name]) for name in parameters)


@pytest.mark.long
def test_readers_may_be_others_when_a_run_is_resumed_and_change_nothing(videos: Path, tmp_path: Path) -> None:
    """With evaluations, which the coordinator feeds, and batches that are read ahead."""
    changes = {"task": "predict", "model": "autoencoder", "ahead": 2, "stages": 2, "replicas": 2, "data__slots": 4}
    tree = slow_run(videos, **changes, model_args={"width": 4}, data__size=16, data__val=str(videos / "val"))
    losses, parameters = replicated_run(parse(tree, "test"))
    tree |= {"ticks": 70, "evaluate_every": 30}
    run = train(tmp_path, {**tree, "data": {**tree["data"], "readers": 2}})
    resume(tmp_path, "--set", "ticks=130", "--set", "data.readers=1")
    resume(tmp_path, "--set", f"ticks={STRAIGHT}", "--set", "data.readers=0")
    assert [losses_of(run, replica) for replica in range(2)] == losses
    model = load_file(run / "model.safetensors")
    assert all(torch.equal(model[name], parameters[name]) for name in parameters)


@pytest.mark.long
def test_replicas_and_stages_may_be_others_when_a_run_is_resumed(videos: Path, tmp_path: Path) -> None:
    tree = slow_run(videos, model_args={"width": 4}, data__size=16, data__slots=4, stages=2, replicas=2, ticks=60)
    run = train(tmp_path, tree)
    resume(tmp_path, "--set", "ticks=90", "--set", "replicas=1", "--set", "stages=3")
    resume(tmp_path, "--set", "ticks=120", "--set", "replicas=4", "--set", "stages=1")
    assert len(losses_of(run)) == (60 - 1) + (30 - 2) + 30


@pytest.mark.long
def test_bad_checkpoints_are_skipped_with_a_reason_and_an_earlier_one_is_used(
    videos: Path, straight: Path, tmp_path: Path
) -> None:
    shutil.copytree(straight, tmp_path / "runs" / "it")
    run = tmp_path / "runs" / "it"
    newest, foreign = run / "checkpoints" / "0000000200", run / "checkpoints" / "0000000150"
    with open(newest / "__1_0.distcp", "r+b") as file:
        file.truncate(1000)
    other = train(tmp_path / "other", slow_run(videos, model_args={"width": 4}, ticks=50))
    shutil.rmtree(foreign)
    shutil.copytree(other / "checkpoints" / "0000000050", foreign)
    (run / "checkpoints" / "0000000300.part").mkdir()  # killed while it was being written
    done = resume(tmp_path)
    output = " ".join(done.stderr.split())
    assert "__1_0.distcp is truncated: it has 1000 of" in output
    assert "0000000150 is of another model: conv1.conv.weight is [4, 3, 3, 3] there and [12, 3, 3, 3] here" in output
    assert "resumed from runs/it/checkpoints/0000000100 at tick 100" in output
    assert losses_of(run) == losses_of(straight)
    assert same_model(run, straight)
    assert not list((run / "checkpoints").glob("*.part"))


def test_resuming_a_missing_or_complete_run_is_an_error(videos: Path, straight: Path, tmp_path: Path) -> None:
    missing = sideways("train", "--resume", "runs/none", cwd=tmp_path)
    assert missing.returncode == 2
    assert "there is no run.toml in it" in missing.stderr
    shutil.copytree(straight, tmp_path / "runs" / "it")
    complete = sideways("train", "--resume", "runs/it", cwd=tmp_path)
    assert complete.returncode == 1
    assert "has completed 200 of 200 ticks: to train further, raise ticks" in complete.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param([], "has completed 20 of 20 ticks", marks=pytest.mark.long),
        pytest.param(["ticks=40", "optimiser.name=Adamant"], "not a usable class", marks=pytest.mark.long),
        pytest.param(["ticks=40", "model=nothing"], "model = 'nothing' is unknown", marks=pytest.mark.long),
        pytest.param(["ticks=40", "data.train=nowhere"], "there is no folder nowhere", marks=pytest.mark.long),
    ],
)
def test_a_refused_resume_changes_no_file(videos: Path, tmp_path: Path, changes: list[str], message: str) -> None:
    small = {"model_args": {"width": 4}, "data__size": 16, "stages": 2, "ticks": 20}
    run = train(tmp_path, slow_run(videos, report__redis=True, **small))
    before = _contents(run)
    assert json.loads(before["status.json"])["state"] == "finished"
    settings = [part for change in changes for part in ("--set", change)]
    done = sideways("train", "--resume", "runs/it", *settings, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert _contents(run) == before
    assert not list((tmp_path / "runs").glob(".launch-*"))


def _contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_run_that_fails_before_its_first_tick_leaves_no_directory(videos: Path, tmp_path: Path) -> None:
    small = {"model_args": {"width": 4}, "data__size": 16, "stages": 2, "ticks": 20, "report__redis": True}
    run_file = write_run_file(tmp_path / "run.toml", slow_run(videos, **small, optimiser__args={"beta": 1}))
    done = sideways("train", run_file, cwd=tmp_path)
    assert done.returncode == 2
    assert "optimiser.args do not fit torch.optim.AdamW" in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.long
def test_resuming_with_another_optimiser_and_precision_keeps_the_weights_only(straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "runs" / "it")
    other = ["optimiser.name=RMSprop", "optimiser.lr=0.0", "precision=bfloat16", "ticks=210", "optimiser.ema=0.999"]
    done = resume(tmp_path, *(part for setting in other for part in ("--set", setting)))
    output = " ".join(done.stderr.split())
    assert "the optimiser, or what is frozen, differs from the checkpoint's: the optimiser's state is reset" in output
    assert "at tick 200, and the pipeline warms up again" in output
    assert same_model(tmp_path / "runs" / "it", straight)


@pytest.mark.long
def test_skips_and_auxiliary_classifiers_follow_the_split(videos: Path, tmp_path: Path) -> None:
    """With another split a skip connects other layers, and perhaps other numbers of channels: it starts anew."""
    small = {"model_args": {"width": 4}, "data__size": 16, "stages": 4, "split": [2, 2, 2, 2], "skips": [[0, 2]]}
    run = train(tmp_path, slow_run(videos, **small, rule__auxiliary=0.3, name="it", ticks=60))
    assert load_file(run / "model.safetensors")["skips.0-2"].any()
    frozen = ["--set", "optimiser.lr=0.0", "--set", "ticks=80"]
    resume(tmp_path, *frozen, "--set", "split=[4,2,1,1]")
    moved = load_file(run / "model.safetensors")["skips.0-2"]
    assert moved.shape[1] == 8
    assert not moved.any()


@pytest.mark.long
def test_the_final_checkpoint_waits_for_the_previous_one(videos: Path, tmp_path: Path) -> None:
    run = train(tmp_path, slow_run(videos, model_args={"width": 4}, data__size=16, ticks=51, checkpoint__every=50))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["0000000050", "0000000051"]


SLOW_MODEL = """
import os, time
from pathlib import Path
from common.models.vgg8 import vgg8

def build(classes, channels=3):
    while Path("slow").exists() and os.environ["RANK"] == "1":
        Path("building").write_text(str(os.getpid()))
        time.sleep(0.1)
    return vgg8(classes, channels, width=4)
"""


@pytest.mark.long
def test_new_settings_survive_a_restart_while_the_run_is_resumed(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    tree = slow_run(videos, model="slow.py:build", stages=2, data__size=16, ticks=20, recovery__restarts=1)
    del tree["model_args"]
    run = train(tmp_path, tree)
    (tmp_path / "slow").touch()
    command = [sys.executable, "-m", "coordinator", "train", "--resume", "runs/it", "--set", "ticks=40"]
    resumed = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    building = tmp_path / "building"
    process = wait_until(lambda: building.read_text() if building.exists() else "", 60)
    (tmp_path / "slow").unlink()
    os.kill(int(process), signal.SIGKILL)
    _, errors = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, errors
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["ticks"], summary["restarts"]) == (40, 1)
    assert len(losses_of(run)) == 40 - (2 - 1)


@pytest.mark.long
@pytest.mark.parametrize("logged", [True, False])
def test_an_interrupted_evaluation_is_repeated_after_resuming(videos: Path, tmp_path: Path, logged: bool) -> None:
    """Interrupted before its score is in the checkpoint, and after or before its line is in metrics.jsonl."""
    often = {"evaluate_every": 10, "data__val": str(videos / "val"), "checkpoint__every": 10}
    run = train(tmp_path, slow_run(videos, model_args={"width": 4}, data__size=16, stages=2, ticks=30, **often))
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    straight = [_evaluation(line) for line in lines if '"evaluation"' in line]
    assert [tick for tick, _ in straight] == [10, 20, 30]
    shutil.rmtree(run / "checkpoints/0000000030")
    position = run / "checkpoints/0000000020/position.json"
    scored = json.loads(position.read_text())
    position.write_text(json.dumps(scored | {"score": None}))
    if not logged:
        kept = [line for line in lines if '"evaluation"' not in line or _evaluation(line)[0] != 20]
        (run / "metrics.jsonl").write_text("".join(kept))
    resume(tmp_path)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert [_evaluation(line) for line in lines if '"evaluation"' in line] == straight
    assert json.loads(position.read_text())["score"] == scored["score"]


def _evaluation(line: str) -> tuple[int, dict[str, float]]:
    """The tick and the figures of a line of metrics.jsonl."""
    record = json.loads(line)
    return record["tick"], {name: value for name, value in record.items() if name.startswith("val_")}


@pytest.mark.parametrize("stages", [2])
def test_resuming_with_another_number_of_stages_keeps_every_weight(
    videos: Path, straight: Path, tmp_path: Path, stages: int
) -> None:
    shutil.copytree(straight, tmp_path / "runs" / "it")
    done = resume(tmp_path, "--stages", str(stages), "--set", "ticks=240", "--set", "optimiser.lr=0.0")
    assert "at tick 200, and the pipeline warms up again" in done.stderr
    assert same_model(tmp_path / "runs" / "it", straight)  # the learning rate is zero: all weights are the loaded ones
    lines = [json.loads(line) for line in (tmp_path / "runs/it/metrics.jsonl").read_text().splitlines()]
    assert len(losses_of(tmp_path / "runs" / "it")) == len(losses_of(straight)) + 40 - (stages - 1)
    assert {line["stage"] for line in lines if line.get("tick", 0) > 200} == set(range(stages))


@pytest.mark.long
def test_a_full_disk_fails_checkpoints_but_not_the_training(videos: Path, tmp_path: Path) -> None:
    """From before the first checkpoint, the stages cannot write files larger than 4 KiB."""
    background = Background(write_run_file(tmp_path / "run.toml", slow_run(videos, ticks=420, checkpoint__every=200)))
    background.wait_for_tick(1)
    for name, pid in background.members().items():
        if name != "coordinator":
            psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (4096, 4096))
    assert background.end(60) == 0, background.output()
    output = " ".join(background.output().split())
    assert "the checkpoint of tick 200 could not be saved" in output
    assert "File too large" in output or "the disk is probably full" in output
    summary = json.loads((tmp_path / "runs/it/summary.json").read_text())
    assert summary["ticks"] == 420
    assert summary["failed_checkpoints"] == 3
    assert (tmp_path / "runs/it/model.safetensors").is_file()
    assert list((tmp_path / "runs/it/checkpoints").iterdir()) == []
