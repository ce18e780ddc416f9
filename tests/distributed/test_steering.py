"""A real run, inspected and controlled from other processes, also while its Redis is away."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from common.config.run_file import load
from common.run_registry.redis_connection import at_socket
from coordinator.__main__ import app
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis
from coordinator.registry.run_finder import find, get_run, list_runs
from tests.support import traces
from tests.support.commands import steer
from tests.support.oracles import inputs_of, stages_of, weights_of
from tests.support.processes import Background, sideways
from tests.support.settings import config_of, settings, write_run_file
from tests.support.waiting import wait_until

LONG = 10_000_000
RATE = 7e-4


def start(videos: Path, folder: Path, **changes: Any) -> Background:
    """Start a run that takes days, at about 20 ms per tick."""
    slow = {"model_args": {"width": 12}, "data__size": 32, "data__slots": 8, "stages": 2, "name": "it", "ticks": LONG}
    tree = settings(videos, **slow, report__redis=True, **changes)
    background = Background(write_run_file(folder / "run.toml", tree))
    background.wait_for_tick(5)
    return background


def test_a_run_that_is_paused_changed_and_stopped_equals_the_reference(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, network__deadline=5)
    run = tmp_path / "runs" / "it"
    assert "it: paused at tick" in steer(tmp_path, "pause", "it")
    paused_at = time.monotonic()
    paused = json.loads(steer(tmp_path, "status", "it", "--json"))
    assert paused["state"] == "paused"
    output = steer(tmp_path, "set", str(run), f"lr={RATE}")
    assert (run / "checkpoints" / f"{paused['tick']:010}").is_dir(), "a resumed run must have the new rate from here on"
    assert f"from tick {paused['tick']} on" in output
    assert "could not be saved" not in output
    assert "saved the checkpoint" in steer(tmp_path, "checkpoint", "it")
    refused = CliRunner().invoke(app, ["trace", "it", "--runs", str(tmp_path / "runs")])
    assert "it is paused" in str(refused.exception)
    time.sleep(max(0.0, paused_at + 7.7 - time.monotonic()))  # longer than any of the run's deadlines
    assert get_run("it", tmp_path / "runs").status.tick == paused["tick"]
    assert "resumed at tick" in steer(tmp_path, "resume", "it")
    background.wait_for_tick(paused["tick"] + 20)
    assert "20 ticks from tick" in steer(tmp_path, "trace", "it", "--ticks", "20", "--out", str(tmp_path / "t.json"))
    trace = traces.read(tmp_path / "t.json")
    traces.check(trace, trace["otherData"]["first_tick"], 20)
    found = find("it", tmp_path / "runs")
    assert found is not None
    assert {line["kind"] for line in found.store.metrics("it", 1000)} == {"progress", "set"}
    assert "stopped at tick" in steer(tmp_path, "stop", "it")
    assert background.end(20) == 143
    ticks = json.loads((run / "summary.json").read_text())["ticks"]
    assert [(seen.state, seen.status.tick) for seen in list_runs(tmp_path / "runs")] == [("stopped", ticks)]
    assert not (run / SOCKET).is_symlink()
    assert load(run / "run.toml").optimiser.lr == RATE  # so a resumed run keeps it
    same_as_the_reference(background, videos, paused["tick"], ticks)


@pytest.mark.long
def test_a_trace_of_a_run_with_readers_has_them_too(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, replicas=2, data__readers=2)
    for _ in range(2):
        assert "20 ticks from tick" in steer(
            tmp_path, "trace", "it", "--ticks", "20", "--out", str(tmp_path / "t.json")
        )
        trace = traces.read(tmp_path / "t.json")
        traces.check(trace, trace["otherData"]["first_tick"], 20)
        assert [trace["otherData"][name] for name in ("stages", "readers")] == [2, 2]
    names = {event["name"] for event in trace["traceEvents"]}
    assert "wait: replicas" in names
    assert "stopped at tick" in steer(tmp_path, "stop", "it")
    assert background.end(20) == 143


def same_as_the_reference(background: Background, videos: Path, changed: int, ticks: int) -> None:
    """Check losses and parameters against a reference whose learning rate is changed at the same tick."""
    from common.rule.reference import Reference

    shape = {"model_args": {"width": 12}, "data__size": 32, "data__slots": 8, "stages": 2}
    config = config_of(videos, **shape, ticks=ticks)
    reference, losses = Reference(stages_of(config, 3), config.frame_shape), []
    for tick, (packet, target) in enumerate(inputs_of(config)):
        if tick == changed:
            for stage in reference.stages:
                stage.updater.set_rate(RATE)
        losses.append(reference.tick(packet, target))
    assert [x for line in background.metrics() for x in line.get("losses", [])] == [
        float(loss) for loss in losses if loss is not None
    ]
    model, parameters = load_file(background.folder / "runs/it/model.safetensors"), weights_of(reference.stages)
    assert all(bool((model[name] == value).all()) for name, value in parameters.items())


@pytest.mark.long
def test_a_pause_outlives_a_restart_during_which_the_run_is_not_lost(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, recovery__restarts=1)
    before = background.members()
    assert "it: paused at tick" in steer(tmp_path, "pause", "it")
    seen: list[str] = []

    def is_again(state: str) -> bool:
        seen.append(get_run("it", tmp_path / "runs").state)
        return seen[-1] == state and set(seen) > {state}

    for end in ("paused", "failed"):  # no restart is left for the second time
        seen.clear()
        os.kill(background.members()["stage1"], signal.SIGKILL)
        wait_until(lambda end=end: is_again(end), 60)  # type: ignore[misc]
        if end == "paused":
            assert list(dict.fromkeys(seen)) == ["paused", "restarting", "starting"]
            paused_at = get_run("it", tmp_path / "runs").status.tick
            time.sleep(1)
            assert get_run("it", tmp_path / "runs").status.tick == paused_at
            assert "resumed at tick" in steer(tmp_path, "resume", "it")
            background.wait_for_tick(paused_at + 20)
            assert before != background.members()
    assert "restarting" not in seen
    assert background.end(20) == 1


@pytest.mark.long
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_can_be_steered_after_its_own_redis_is_killed_or_stopped(
    videos: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    background = start(videos, tmp_path)
    os.kill(background.members()["redis"], signal_number)
    time.sleep(1)
    wait_until(
        lambda: "paused at tick" in CliRunner().invoke(app, ["pause", "it", "--runs", str(tmp_path / "runs")]).output
    )
    assert "stopped at tick" in steer(tmp_path, "stop", "it")
    assert background.end(20) == 143


@pytest.mark.long
def test_training_continues_while_redis_is_away_and_reconnects(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, second = EmbeddedRedis(tmp_path), EmbeddedRedis(tmp_path)
    password = "se/cret"
    (tmp_path / "password").write_text(password)
    server.access().connect().config_set("requirepass", password)
    monkeypatch.setenv("REDIS_URL", at_socket(tmp_path / SOCKET).url)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    elsewhere = tmp_path / "elsewhere"
    try:
        background = start(videos, tmp_path)
        assert "running" in steer(elsewhere, "runs")
        server.close()
        wait_until(lambda: "does not answer" in background.output())
        time.sleep(20)
        gone_at = background.metrics()[-1]["tick"]
        background.wait_for_tick(gone_at + 10)
        second.access().connect().config_set("requirepass", password)
        wait_until(lambda: "answers again" in background.output())
        unknown = sideways("pause", "other", cwd=tmp_path)
        assert (unknown.returncode, "there is no run 'other'. Known runs: it" in unknown.stderr) == (1, True)
        assert "paused at tick" in steer(elsewhere, "pause", "it")
        background.send(signal.SIGTERM)  # while it is paused
        assert background.end(20) == 143
        assert json.loads(steer(elsewhere, "status", "it", "--json"))["state"] == "stopped"
    finally:
        second.close()
    output = background.output()
    assert (output.count("does not answer"), password in output) == (1, False)
    assert (tmp_path / "runs/it/model.safetensors").is_file()
