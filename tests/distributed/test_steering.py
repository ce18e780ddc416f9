"""A real run, looked at and steered from other processes, and its Redis taken away while it trains."""

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
    """A run that would go on for days, at some 20 ms a tick."""
    slow = {"model_args": {"width": 12}, "data__size": 32, "data__slots": 8, "stages": 2, "name": "it", "ticks": LONG}
    tree = settings(videos, **slow, report__redis=True, **changes)
    background = Background(write_run_file(folder / "run.toml", tree))
    background.wait_for_tick(5)
    return background


def test_a_run_is_paused_changed_and_stopped_and_equals_the_reference(videos: Path, tmp_path: Path) -> None:
    background = start(videos, tmp_path, network__deadline=5)
    run = tmp_path / "runs" / "it"
    assert "it: paused at tick" in steer(tmp_path, "pause", "it")
    since = time.monotonic()
    paused = json.loads(steer(tmp_path, "status", "it", "--json"))
    assert paused["state"] == "paused"
    told = steer(tmp_path, "set", str(run), f"lr={RATE}")
    assert (run / "checkpoints" / f"{paused['tick']:010}").is_dir(), "what is resumed must have the rate from there on"
    assert f"from tick {paused['tick']} on" in told
    assert "could not be kept" not in told
    assert "kept the checkpoint" in steer(tmp_path, "checkpoint", "it")
    refused = CliRunner().invoke(app, ["trace", "it", "--runs", str(tmp_path / "runs")])
    assert "it is paused" in str(refused.exception)
    time.sleep(max(0.0, since + 7.7 - time.monotonic()))  # longer than any deadline of the run's
    assert get_run("it", tmp_path / "runs").status.tick == paused["tick"]
    assert "goes on" in steer(tmp_path, "resume", "it")
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
    assert load(run / "run.toml").optimiser.lr == RATE  # so a resumed run goes on with it
    same_as_the_reference(background, videos, paused["tick"], ticks)


def same_as_the_reference(background: Background, videos: Path, changed: int, ticks: int) -> None:
    """One whose rate is changed at the same tick has the same losses and parameters."""
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
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_the_runs_own_redis_is_lost(videos: Path, tmp_path: Path, blow: signal.Signals) -> None:
    background = start(videos, tmp_path)
    os.kill(background.members()["redis"], blow)
    time.sleep(1)
    wait_until(
        lambda: "paused at tick" in CliRunner().invoke(app, ["pause", "it", "--runs", str(tmp_path / "runs")]).output
    )
    assert "stopped at tick" in steer(tmp_path, "stop", "it")
    assert background.end(20) == 143


@pytest.mark.long
def test_redis_taken_away_and_given_back_while_it_trains(
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
        assert (unknown.returncode, "no run 'other'. Known: it" in unknown.stderr) == (1, True)
        assert "paused at tick" in steer(elsewhere, "pause", "it")
        background.send(signal.SIGTERM)  # while it is paused
        assert background.end(20) == 143
        assert json.loads(steer(elsewhere, "status", "it", "--json"))["state"] == "stopped"
    finally:
        second.close()
    told = background.output()
    assert (told.count("does not answer"), password in told) == (1, False)
    assert (tmp_path / "runs/it/model.safetensors").is_file()
