"""With recovery.mode = "heal" a lost stage goes back to its snapshot, and no other process does a tick twice."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.faults import Fault
from tests.support.processes import Background
from tests.support.settings import slow_run, write_run_file
from tests.support.waiting import wait_until

MEMORY = Path("/dev/shm")


@pytest.fixture(autouse=True)
def _no_snapshots_are_left() -> Any:
    before = set(MEMORY.glob("sideways-*"))
    yield
    assert set(MEMORY.glob("sideways-*")) <= before


def healing(videos: Path, tmp_path: Path, *arguments: str, **changes: Any) -> Background:
    """A run that heals, of three stages, and takes hours."""
    often = {"recovery__mode": "heal", "recovery__restarts": 9, "recovery__snapshot_every": 30, "report__every": 0.05}
    tree = slow_run(videos, **{**often, "network__deadline": 4, "ticks": 10**6, **changes})
    return Background(write_run_file(tmp_path / "run.toml", tree), *arguments)


def kinds(run: Background, kind: str) -> list[dict[str, Any]]:
    return [line for line in run.metrics() if line["kind"] == kind]


def heals(run: Background, count: int = 1) -> dict[str, Any]:
    """Wait until the run has healed so many times and goes on. Returns how it did the last time."""
    run.wait_for_output("(?s)" + "healed: .*" * count, 60)
    found = wait_until(lambda: (lines := kinds(run, "heal")) and len(lines) >= count and lines[-1])
    run.wait_for_tick(found["tick"] + 50)
    return found


def stopped(run: Background) -> str:
    """Stop the run. No stage has reported a tick twice. Returns the output."""
    run.send(signal.SIGINT)
    assert run.end(60) == 130, run.output()
    for stage in {line["stage"] for line in kinds(run, "progress")}:
        own = [line for line in kinds(run, "progress") if line["stage"] == stage and not line.get("replica")]
        begun = [line["tick"] - line["ticks"] for line in own]
        assert all(after >= line["tick"] for after, line in zip(begun[1:], own, strict=False)), own
    return " ".join(run.output().split())


def test_a_killed_stage_goes_back_and_the_others_go_on(videos: Path, tmp_path: Path) -> None:
    run = healing(videos, tmp_path)
    run.wait_for_tick(100)
    os.kill(run.members()["stage1"], signal.SIGKILL)
    found = heals(run)
    assert list(found["lost_ticks"]) == ["1"]
    assert 0 < found["lost_ticks"]["1"] <= 30 + 10
    output = stopped(run)
    assert "restarting all processes from what they kept in memory (restart 1)" in output
    assert f"healed: the training goes on at tick {found['tick']}; stage 1 lost the updates of" in output


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "who", "transport"),
    [
        (Fault.KILLED, "coordinator", "auto"),
        (Fault.KILLED, "coordinator", "gloo"),
        (Fault.KILLED, "stage0", "auto"),
        (Fault.KILLED, "stage2", "gloo"),
        (Fault.STALLED, "stage1", "auto"),
        (Fault.STALLED, "coordinator", "auto"),
        (Fault.MISSHAPEN, "stage0", "gloo"),
    ],
)
def test_whoever_is_lost_the_others_lose_nothing(
    videos: Path, tmp_path: Path, fault: Fault, who: str, transport: str
) -> None:
    run = healing(videos, tmp_path, network__transport=transport)
    run.wait_for_tick(100)
    fault.inject(run, who)
    found = heals(run)
    lost = [who.removeprefix("stage")] if fault is not Fault.MISSHAPEN and who != "coordinator" else []
    assert list(found["lost_ticks"]) == lost, run.output()
    stopped(run)


@pytest.mark.long
def test_a_replica_takes_the_state_of_another_and_loses_nothing(videos: Path, tmp_path: Path) -> None:
    run = healing(videos, tmp_path, stages=2, replicas=2)
    run.wait_for_tick(70)
    os.kill(run.members()["stage3"], signal.SIGKILL)
    assert heals(run)["lost_ticks"] == {}
    stopped(run)


@pytest.mark.long
def test_several_losses_in_a_row_and_at_once(videos: Path, tmp_path: Path) -> None:
    run = healing(videos, tmp_path, recovery__snapshot_every=1000)  # the checkpoints of every 50 ticks are newer
    run.wait_for_tick(130)
    members = run.members()
    for who in ("stage0", "stage2"):
        os.kill(members[who], signal.SIGKILL)
    assert set(heals(run)["lost_ticks"]) == {"0", "2"}
    members = run.members()
    os.kill(members["stage1"], signal.SIGKILL)
    new = wait_until(lambda: (now := run.members().get("coordinator")) not in (None, members["coordinator"]) and now)
    time.sleep(0.3)
    os.kill(new, signal.SIGKILL)  # during the recovery, or just after it
    heals(run, 2)
    stopped(run)


@pytest.mark.long
def test_a_loss_during_an_evaluation_is_recovered_from(videos: Path, tmp_path: Path) -> None:
    """There is a checkpoint of the same tick, unless it was still being written."""
    changes = {"evaluate_every": 20, "data__val": str(videos / "val"), "optimiser__ema": 0.5}
    run = healing(videos, tmp_path, **changes)
    run.wait_for_output("val_top1", 60)
    for attempt in range(1, 4):
        os.kill(run.members()["stage2"], signal.SIGKILL)
        run.wait_for_output(f"restart {attempt}: the training resumed", 60)
    stopped(run)


@pytest.mark.long
def test_frame_sized_targets_and_memory_heal_too(videos: Path, tmp_path: Path) -> None:
    model = {"model": "autoencoder", "task": "autoencode", "split": None, "stages": 3}
    run = healing(videos, tmp_path, **{name: value for name, value in model.items() if value is not None})
    run.wait_for_tick(100)
    os.kill(run.members()["stage1"], signal.SIGKILL)
    assert list(heals(run)["lost_ticks"]) == ["1"]
    stopped(run)


@pytest.mark.long
def test_a_killed_launcher_leaves_no_snapshots(videos: Path, tmp_path: Path) -> None:
    run = healing(videos, tmp_path)
    run.wait_for_tick(60)
    pids, before = run.members().values(), set(MEMORY.glob("sideways-*"))
    run.process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
    run.process.wait()
    assert len(before) - len(before & set(MEMORY.glob("sideways-*"))) == 1


@pytest.mark.long
def test_a_diverged_training_rolls_back_to_a_checkpoint(videos: Path, tmp_path: Path) -> None:
    rate = {"optimiser": {"name": "SGD", "lr": 1e6}, "recovery__divergence": "rollback", "recovery__slower": 1e-9}
    run = healing(videos, tmp_path, **rate, ticks=60)
    assert run.end(90) == 0, run.output()
    assert "rolling back, with optimiser.lr = 0.001" in " ".join(run.output().split())
    assert kinds(run, "heal") == []
