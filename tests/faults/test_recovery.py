"""A run that loses a process restarts by itself, and ends with the losses and parameters of an undisturbed one."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config.run_file import parse
from tests.faults.faults import Fault
from tests.support.oracles import losses_of, replicated_run, same_model
from tests.support.processes import Background
from tests.support.settings import STRAIGHT, slow_run, write_run_file
from tests.support.waiting import wait_until


def slow(videos: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a slow run with frequent reports, so that a fault is injected soon after its tick."""
    often = {"recovery__restarts": 3, "network__deadline": 4, "report__every": 0.05}
    return slow_run(videos, **{**often, **changes})


@pytest.mark.parametrize(
    ("fault", "who", "tick"),
    [
        (Fault.KILLED, "stage1", 100),
        pytest.param(Fault.KILLED, "coordinator", 20, marks=pytest.mark.long),  # before the first checkpoint
        pytest.param(Fault.KILLED, "coordinator", 105, marks=pytest.mark.long),
        pytest.param(Fault.KILLED, "stage0", 101, marks=pytest.mark.long),
        pytest.param(Fault.KILLED, "stage2", 51, marks=pytest.mark.long),
        pytest.param(Fault.STALLED, "stage2", 60, marks=pytest.mark.long),
        pytest.param(Fault.STALLED, "coordinator", 100, marks=pytest.mark.long),
        pytest.param(Fault.HELD_UP, "stage1", 80, marks=pytest.mark.long),
        pytest.param(Fault.HELD_UP, "coordinator", 30, marks=pytest.mark.long),
        pytest.param(Fault.SLOW, "stage1", 20, marks=pytest.mark.long),
        pytest.param(Fault.GARBAGE, "coordinator", 90, marks=pytest.mark.long),
        pytest.param(Fault.FLOOD, "coordinator", 60, marks=pytest.mark.long),
        pytest.param(Fault.LATE, "stage0", 50, marks=pytest.mark.long),
        pytest.param(Fault.FULL_DISK, "stage1", 40, marks=pytest.mark.long),
    ],
)
def test_a_lost_process_is_recovered_from(
    videos: Path, straight: Path, tmp_path: Path, fault: Fault, who: str, tick: int
) -> None:
    recovered(slow(videos), straight, tmp_path, fault, who, tick)


@pytest.mark.long
@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.GARBAGE, Fault.MISSHAPEN, Fault.REPEATED])
def test_a_wrong_message_to_stage_0_is_recovered_from(
    videos: Path, straight: Path, tmp_path: Path, fault: Fault
) -> None:
    """The undisturbed run has its frames in shared memory."""
    recovered(slow(videos, network__transport="gloo"), straight, tmp_path, fault, "stage0", 70)


@pytest.mark.long
@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.GARBAGE, Fault.REPEATED, Fault.POINTED])
def test_with_frames_in_shared_memory_a_wrong_message_is_found_when_a_phase_begins(
    videos: Path, straight: Path, tmp_path: Path, fault: Fault
) -> None:
    """Only the first frames of a phase are announced over ZeroMQ."""
    tree = slow(videos, evaluate_every=110)
    tree["data"]["val"] = str(videos / "val")
    recovered(tree, straight, tmp_path, fault, "stage0", 70)


@pytest.mark.long
@pytest.mark.parametrize("fault", [Fault.REDIS_DOWN, Fault.KILLED])
def test_a_redis_that_hangs_or_dies_does_not_disturb_the_run(
    videos: Path, straight: Path, tmp_path: Path, fault: Fault
) -> None:
    """Redis comes back or is replaced, and the run does not wait for it."""
    tree = slow(videos, report__redis=True, ticks=10**6)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(30)
    before = background.metrics()[-1]["tick"]
    fault.inject(background, "redis")
    background.wait_for_tick(max(before + 100, STRAIGHT + 10))
    background.send(signal.SIGINT)
    assert background.end(30) == 130
    run = tmp_path / "runs" / "it"
    assert losses_of(run)[: len(losses_of(straight))] == losses_of(straight)
    assert not [line for line in background.metrics() if line["kind"] == "restart"]


@pytest.mark.long
def test_a_nan_loss_ends_the_run_and_leaves_its_checkpoints(videos: Path, tmp_path: Path) -> None:
    tree = slow(videos, report__redis=True, ticks=10**6, checkpoint__keep=1000)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(60)
    Fault.NAN.inject(background, "stage1")
    assert background.end(60) == 1
    assert re.search(Fault.NAN.expected_output("stage1"), " ".join(background.output().split())), background.output()
    assert (tmp_path / "runs/it/checkpoints/0000000050").is_dir()
    assert not [line for line in background.metrics() if line["kind"] == "restart"]


@pytest.mark.long
@pytest.mark.parametrize(("fault", "who"), [(Fault.KILLED, "stage1"), (Fault.STALLED, "stage2")])
def test_a_lost_process_is_recovered_from_without_shared_memory(
    videos: Path, straight: Path, tmp_path: Path, fault: Fault, who: str
) -> None:
    """As between hosts; the undisturbed run uses shared memory."""
    recovered(slow(videos, network__transport="gloo"), straight, tmp_path, fault, who, 70)


@pytest.mark.long
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_decoding_process_is_replaced_without_a_restart(
    videos: Path, straight: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    background = Background(write_run_file(tmp_path / "run.toml", slow(videos, data__threads=1)))
    background.wait_for_tick(20)
    children = psutil.Process(background.members()["coordinator"]).children()
    decoder = next(child for child in children if "coordinator.video.decoder_pool.worker" in child.cmdline())
    decoder.send_signal(signal_number)
    assert background.end(60) == 0, background.output()
    assert not decoder.is_running()
    assert losses_of(tmp_path / "runs/it") == losses_of(straight)
    assert not [line for line in background.metrics() if line["kind"] == "restart"]


@pytest.mark.long
@pytest.mark.parametrize("fault", [Fault.KILLED, Fault.STALLED])
def test_a_lost_stage_of_a_replica_is_recovered_from(videos: Path, tmp_path: Path, fault: Fault) -> None:
    tree = slow(videos, stages=2, replicas=2)
    expected, _ = replicated_run(parse(tree, "test"))
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(70)
    fault.inject(background, "stage3")
    assert background.end(100) == 0, background.output()
    assert [losses_of(tmp_path / "runs/it", replica) for replica in range(2)] == expected, background.output()


def recovered(tree: dict[str, Any], straight: Path, tmp_path: Path, fault: Fault, who: str, tick: int) -> None:
    """Check that a fault at a tick is reported and recovered from, and changes no result."""
    background = Background(write_run_file(tmp_path / "run.toml", tree), "--json")
    background.wait_for_tick(tick)
    fault.inject(background, who)
    if fault is Fault.KILLED:
        background.wait_for_output("gone|killed|connection", 5)
    assert background.end(100) == 0, background.output()
    run = tmp_path / "runs" / "it"
    assert losses_of(run) == losses_of(straight), background.output()
    assert same_model(run, straight)
    assert json.loads((run / "summary.json").read_text())["restarts"] == int(fault.restarts)
    assert not list((tmp_path / "runs").glob(".launch-*"))
    output = " ".join(background.output().split())
    restart = [line for line in background.metrics() if line["kind"] == "restart"]
    assert ("restarting all processes from the last checkpoint (restart 1)" in output) == fault.restarts
    assert len(restart) == int(fault.restarts)
    assert all(line["recovery_seconds"] > 0 for line in restart)
    assert re.search(fault.expected_output(who), output), output


def test_with_snapshots_in_memory_the_disk_is_not_needed(videos: Path, straight: Path, tmp_path: Path) -> None:
    tree = slow(videos, recovery__snapshot_every=20, checkpoint__every=10**6)
    run = from_memory(tree, tmp_path, "stage1", 100)
    assert losses_of(run) == losses_of(straight)
    assert same_model(run, straight)


@pytest.mark.long
@pytest.mark.parametrize(
    ("who", "changes"),
    [
        ("coordinator", {}),
        ("stage0", {"network__transport": "gloo", "network__wire": "int8"}),
        ("stage2", {"network__edge_ticks": [3, 2], "recovery__snapshot_every": 2}),
        ("stage1", {"stages": 2, "algorithm": "1f1b", "micro_batches": 4}),
        ("stage0", {"stages": 1, "model_args": {"width": 24}}),
        ("stage1", {"rule__every": 4, "optimiser__ema": 0.9, "evaluate_every": 70}),
    ],
)
def test_snapshots_in_memory_hold_everything(videos: Path, tmp_path: Path, who: str, changes: dict[str, Any]) -> None:
    tree = slow(videos, **{"recovery__snapshot_every": 20, "checkpoint__every": 10**6, **changes})
    if "evaluate_every" in tree:
        tree["data"]["val"] = str(videos / "val")
    run = from_memory(tree, tmp_path, who, 100)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    background = Background(write_run_file(undisturbed / "run.toml", tree))
    assert background.end(100) == 0, background.output()
    assert losses_of(run) == losses_of(undisturbed / "runs/it")
    assert same_model(run, undisturbed / "runs/it")


@pytest.mark.long
def test_snapshots_in_memory_hold_replicas(videos: Path, tmp_path: Path) -> None:
    tree = slow(videos, stages=2, replicas=2, recovery__snapshot_every=20, checkpoint__every=10**6)
    run = from_memory(tree, tmp_path, "stage3", 70)
    expected, _ = replicated_run(parse(tree, "test"))
    assert [losses_of(run, replica) for replica in range(2)] == expected


@pytest.mark.long
def test_snapshots_in_memory_hold_targets(videos: Path, tmp_path: Path) -> None:
    changes = {"model": "autoencoder", "task": "autoencode", "recovery__snapshot_every": 20, "checkpoint__every": 10**6}
    tree = slow(videos, **changes)
    run = from_memory(tree, tmp_path, "stage1", 70)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    background = Background(write_run_file(undisturbed / "run.toml", tree))
    assert background.end(100) == 0, background.output()
    assert losses_of(run) == losses_of(undisturbed / "runs/it")


def from_memory(tree: dict[str, Any], tmp_path: Path, who: str, tick: int) -> Path:
    """Kill a process at a tick: the run goes on from memory. Returns its directory."""
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(tick, 120)
    os.kill(background.members()[who], signal.SIGKILL)
    assert background.end(100) == 0, background.output()
    output = " ".join(background.output().split())
    assert "restarting all processes from what they kept in memory (restart 1)" in output
    found = re.search(r"resumed from what all processes kept in memory at tick (\d+)", output)
    assert found, output
    every = tree["recovery"]["snapshot_every"]
    assert int(found[1]) % every == 0
    assert int(found[1]) > tick - 2 * every - 10
    assert "there is no checkpoint yet" not in output
    return tmp_path / "runs/it"


@pytest.mark.long
def test_a_process_that_is_lost_while_a_restart_is_under_way_is_recovered_from(
    videos: Path, straight: Path, tmp_path: Path
) -> None:
    """The processes of every attempt are forks of the launcher, with what it has imported."""
    background = Background(write_run_file(tmp_path / "run.toml", slow(videos)))
    background.wait_for_tick(100)
    first = background.members()
    os.kill(first["stage0"], signal.SIGKILL)
    started = wait_until(lambda: (now := background.members()).get("stage1") not in (None, first["stage1"]) and now)
    launcher = psutil.Process(background.process.pid)
    assert psutil.Process(started["stage1"]).ppid() == launcher.pid
    assert psutil.Process(started["stage1"]).cmdline() == launcher.cmdline()
    os.kill(started["stage1"], signal.SIGKILL)
    assert background.end(100) == 0, background.output()
    assert losses_of(tmp_path / "runs/it") == losses_of(straight)
    assert same_model(tmp_path / "runs/it", straight)
    assert json.loads((tmp_path / "runs/it/summary.json").read_text())["restarts"] == 2


@pytest.mark.long
def test_a_run_that_fails_too_often_gives_up_and_names_the_cause(videos: Path, tmp_path: Path) -> None:
    background = Background(write_run_file(tmp_path / "run.toml", slow(videos, ticks=10**6, recovery__restarts=1)))
    for _ in range(2):
        tick = max((line["tick"] for line in background.metrics()), default=0)
        background.wait_for_tick(tick + 20)
        os.kill(background.members()["stage0"], signal.SIGKILL)
        while "stage0" in background.members():
            time.sleep(0.05)
    assert background.end(60) == 1
    output = " ".join(background.output().split())
    assert "giving up after restart 1: recovery.restarts allows 1 per hour" in output
    assert output.count("was killed by SIGKILL") == 2


@pytest.mark.long
def test_a_diverged_training_stops_with_an_error(videos: Path, tmp_path: Path) -> None:
    tree = slow(videos, optimiser={"name": "SGD", "lr": 1e9}, ticks=10**6)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    assert background.end(60) == 1
    output = " ".join(background.output().split())
    assert "the training has diverged, the loss is" in output
    assert "try a smaller optimiser.lr" in output
    assert "restarting all processes" not in output


@pytest.mark.long
def test_with_rollback_a_diverged_training_restarts_with_a_lower_learning_rate(videos: Path, tmp_path: Path) -> None:
    tree = slow(
        videos, optimiser={"name": "SGD", "lr": 1e6}, recovery__divergence="rollback", recovery__slower=1e-9, ticks=60
    )
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    assert background.end(90) == 0, background.output()
    assert "rolling back, with optimiser.lr = 0.001" in " ".join(background.output().split())
    rates = {(line["stage"], line["learning_rate"]) for line in background.metrics() if line["kind"] == "progress"}
    assert rates == {(0, 0.001 / 5), (1, 0.001 / 3), (2, 0.001)}  # divided by 1 + mismatch
