"""A run ends cleanly for any reason: it saves its model if stopped, leaves no process, and reports errors."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.processes import Background, sideways
from tests.support.settings import settings, write_run_file
from tests.support.videos import write_clip
from tests.support.waiting import gone, wait_until


def start(videos: Path, folder: Path, **changes: object) -> Background:
    """Start a run that takes hours, and wait for its first ticks."""
    tree = settings(videos, stages=3, ticks=10_000_000, name="it", data__val=str(videos / "val"), **changes)
    background = Background(write_run_file(folder / "run.toml", tree), "--json")
    background.wait_for_tick(20)
    return background


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_stops_the_run_and_keeps_the_model(
    videos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    background = start(videos, tmp_path)
    members = background.members()
    background.send(number)
    assert background.end(20) == code
    assert gone(list(members.values()), 1)
    summary = json.loads((tmp_path / "runs/it/summary.json").read_text())
    assert summary["ticks"] > 20
    assert json.loads(background.output().splitlines()[-1]) == summary
    assert len(load_file(tmp_path / "runs/it/model.safetensors")) > 10
    for stage in range(3):  # all end at the same tick
        own = [line for line in background.metrics() if line.get("stage") == stage]
        assert own[-1]["tick"] == summary["ticks"] - 1


@pytest.mark.long
@pytest.mark.parametrize("who", ["coordinator", "stage1"])
def test_a_signal_to_one_process_stops_the_run(videos: Path, tmp_path: Path, who: str) -> None:
    background = start(videos, tmp_path)
    os.kill(background.members()[who], signal.SIGTERM)
    assert background.end(20) == 143
    assert (tmp_path / "runs/it/model.safetensors").is_file()


@pytest.mark.long
def test_a_stop_during_the_last_evaluation_keeps_the_model_and_can_be_resumed(videos: Path, tmp_path: Path) -> None:
    for number in range(40):
        write_clip(tmp_path / "val" / "ant" / f"{number}.mp4", 100, seed=number)
    tree = settings(videos, stages=2, ticks=30, name="it", data__val=str(tmp_path / "val"), data__slots=1)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(29)
    background.send(signal.SIGINT)
    assert background.end(20) == 130
    run = tmp_path / "runs/it"
    assert (run / "model.safetensors").is_file()
    assert json.loads((run / "summary.json").read_text())["val_top1"] is None
    assert "stopped at tick 30 of 30, before it was evaluated: go on with" in background.output()
    resumed = sideways("train", "--resume", "runs/it", "--json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1])["val_top1"] is not None
    done = sideways("train", "--resume", "runs/it", cwd=tmp_path)
    assert done.returncode != 0
    assert "has completed 30 of 30 ticks" in done.stderr


@pytest.mark.parametrize("members", [0, 3])
def test_a_stop_during_startup_ends_all_processes(videos: Path, tmp_path: Path, members: int) -> None:
    """Right after the start, and when all processes exist but have not met yet."""
    tree = settings(videos, stages=2, ticks=10_000_000, name="it")
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    time.sleep(0.5)
    found = wait_until(lambda: len(now := background.members()) >= members and [now], 60)[0]
    time.sleep(0.3)  # until the launcher knows them too
    background.send(signal.SIGINT)
    assert background.end(20) in (130, -2)
    assert gone(list(found.values()), 2)


@pytest.mark.long
def test_a_run_stopped_before_its_first_tick_leaves_its_name_free(videos: Path, tmp_path: Path) -> None:
    file = write_run_file(tmp_path / "run.toml", settings(videos, stages=2, ticks=20, name="it"))
    background = Background(file)
    wait_until((tmp_path / "runs/it/.lock").is_file)
    background.send(signal.SIGINT)
    assert background.end(20) in (130, -2)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"it"}
    assert not (tmp_path / "runs/it/model.safetensors").exists()
    assert Background(file).end(60) == 0
    assert (tmp_path / "runs/it/model.safetensors").is_file()


@pytest.mark.long
@pytest.mark.parametrize("who", ["coordinator", "stage0"])
def test_kill_9_of_a_process_ends_all_of_them_within_10_seconds(videos: Path, tmp_path: Path, who: str) -> None:
    background = start(videos, tmp_path)
    members = background.members()
    os.kill(members[who], signal.SIGKILL)
    assert gone([*members.values(), background.process.pid], 10), background.output()
    assert background.end(1) == 1
    name = "the coordinator" if who == "coordinator" else f"stage {who[-1]}"
    assert f"{name} (pid {members[who]}) was killed by SIGKILL" in background.output()
    if who != "coordinator":  # its neighbour reports it too
        assert f"from stage {who[-1]}: the connection broke" in background.output() or (
            f"to stage {who[-1]}: the connection broke" in background.output()
        ), background.output()


def test_kill_9_of_the_launcher_ends_all_of_them_within_10_seconds(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path)
    members = background.members()
    background.send(signal.SIGKILL)
    assert gone(list(members.values()), 10), background.output()
    assert background.end(1) == -9
    assert f"the launcher (pid {background.process.pid}) is gone" in background.output()


@pytest.mark.long
def test_kill_9_of_the_launcher_during_a_restart_leaves_nothing(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, recovery__restarts=3)
    first = background.members()
    os.kill(first["stage1"], signal.SIGKILL)
    started = wait_until(lambda: (now := background.members()).get("stage2") not in (None, first["stage2"]) and now)
    background.send(signal.SIGKILL)
    assert gone([*first.values(), *started.values()], 10), background.output()
    assert background.end(1) == -9


def test_a_hanging_stage_is_named_with_its_tick(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, network__deadline=4)
    members = background.members()
    os.kill(members["stage1"], signal.SIGSTOP)
    assert background.end(60) == 1
    assert gone(list(members.values()), 1)
    output = background.output()
    assert "stage 1: no progress for 5 s" in output
    assert ", tick " in output


@pytest.mark.long
def test_bad_and_short_clips_are_skipped_and_counted(tmp_path: Path) -> None:
    for number in range(3):
        write_clip(tmp_path / "videos" / "ant" / f"{number}.mp4", 20, seed=number)
    write_clip(tmp_path / "videos" / "bee" / "short.mp4", 3)
    (tmp_path / "videos" / "ant" / "empty.mp4").touch()
    (tmp_path / "videos" / "ant" / "noise.mp4").write_bytes(os.urandom(5000))
    broken = write_clip(tmp_path / "videos" / "ant" / "broken.avi", 300, size=(64, 48), codec="mpeg4")
    broken.write_bytes(broken.read_bytes()[:30_000])
    tree = settings(tmp_path, stages=3, ticks=400, name="it", data__train="videos")
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["short_clips"] > 0
    assert summary["unreadable_files"] == 2
    warnings = " ".join(done.stderr.split())
    assert "empty.mp4 cannot be read and is left out: the file is empty" in warnings
    assert "noise.mp4 cannot be read" in warnings
    assert "only one clip" in warnings
    assert "1 of 5 clips" in warnings
    assert "at most 4 frames" in warnings


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        pytest.param({"data__train": "empty"}, "no videos in empty", 1, marks=pytest.mark.long),
        pytest.param({"data__train": "rotten"}, "none of the 2 videos", 1, marks=pytest.mark.long),
        pytest.param(
            {"split": [3, 3, 3]}, "split = [3, 3, 3] sums to 9 blocks, but the model has 8", 2, marks=pytest.mark.long
        ),
        pytest.param(
            {"optimiser__name": "Adamant"},
            "optimiser.name = 'Adamant' is not a usable class of torch.optim",
            2,
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_wrong_setting_is_an_error_without_a_traceback(
    videos: Path, tmp_path: Path, change: dict[str, object], message: str, code: int
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rotten" / "a").mkdir(parents=True)
    for name in ("x.mp4", "y.avi"):
        (tmp_path / "rotten" / "a" / name).write_bytes(os.urandom(3000))
    tree = settings(videos, **{"stages": 3, "ticks": 10, "name": "it", **change})
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_an_unwritable_runs_folder_is_an_error(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file is in the way")
    tree = settings(videos, stages=2, ticks=10, name="it")
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot write to runs/it" in done.stderr
