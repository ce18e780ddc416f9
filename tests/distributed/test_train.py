"""End-to-end training through the command line, from videos to a model and its figures, started in several ways."""

import json
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from common.config.run_file import load
from common.models import build
from common.rule.pixels import Normaliser
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import find
from coordinator.video.slots import Slots
from tests.support import traces
from tests.support.oracles import reference_run
from tests.support.processes import Background, environment, sideways
from tests.support.settings import config_of, settings, write_run_file

ROOT = Path(__file__).parent.parent.parent
STAGES, TICKS, TRACED = 3, 120, 40


def tree_of(videos: Path, **changes: Any) -> dict[str, Any]:
    defaults = {"stages": STAGES, "ticks": TICKS, "data__val": str(videos / "val"), "name": "it"}
    return settings(videos, **{**defaults, **changes})


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run: its directory, and the last line of its --json output."""
    folder = tmp_path_factory.mktemp("trained")
    run_file = write_run_file(folder / "run.toml", tree_of(videos, report__trace_ticks=TRACED))
    done = sideways("train", run_file, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "it", json.loads(done.stdout.splitlines()[-1])


def losses_of(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [loss for line in lines for loss in line.get("losses", [])]


def test_losses_and_parameters_equal_the_reference(videos: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    run, _ = trained
    losses, parameters = reference_run(config_of(videos, stages=STAGES, ticks=TICKS))
    assert losses_of(run) == losses
    model = load_file(run / "model.safetensors")
    assert set(model) == set(parameters)
    assert all(torch.equal(model[name], parameters[name]) for name in parameters)


def test_the_trace_has_every_requested_tick(trained: tuple[Path, dict[str, Any]]) -> None:
    trace = traces.read(trained[0] / "trace.json.gz")
    traces.check(trace, 2 * STAGES, TRACED)
    assert [clock["offset_us"] for clock in trace["otherData"]["clocks"]] == [0] * STAGES


def test_the_summary_has_all_figures(trained: tuple[Path, dict[str, Any]]) -> None:
    run, printed = trained
    assert json.loads((run / "summary.json").read_text()) == printed
    expected = {"run", "ticks", "frames_per_second", "val_top1", "val_top5", "seconds", "slowest_stage_ms", "tick_ms"}
    assert expected <= set(printed)
    assert printed["run"] == "runs/it"
    assert printed["ticks"] == TICKS
    assert 0 < printed["slowest_stage_ms"] < printed["tick_ms"]
    assert printed["frames_per_second"] > 0


def test_metrics_have_one_line_per_report(trained: tuple[Path, dict[str, Any]]) -> None:
    run, _ = trained
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    progress = [line for line in lines if line["kind"] == "progress"]
    for stage in range(STAGES):
        own = [line for line in progress if line["stage"] == stage]
        assert sum(line["ticks"] for line in own) == TICKS
        assert own[-1]["tick"] == TICKS - 1
        assert own[-1]["gradient_norm"] > 0  # also of a phase too short for a report of its own
        assert all(("loss" in line) == (stage == STAGES - 1) for line in own[1:])
    assert [line["kind"] for line in lines].count("evaluation") == 1


def test_evaluation_equals_the_whole_model_in_one_process(videos: Path, trained: tuple[Path, dict[str, Any]]) -> None:
    run, printed = trained
    config = config_of(videos)
    model = build(config, 3)
    model.load_state_dict(load_file(run / "model.safetensors"))
    model.eval()
    clips = find(videos / "val", "*", 1)
    slots, batch = Slots(Job(clips.clips, config.data, 0, train=False)), Batch(config.frame_shape)
    sums = torch.zeros(len(clips.clips), 3, dtype=torch.float64)
    x = torch.empty(config.frame_shape)
    while slots.fill(batch):
        Normaliser(*config.data.normalisation)(x, torch.from_numpy(batch.frames))
        with torch.no_grad():
            softmax = model(x).double().softmax(1)
        for row, clip in enumerate(batch.clips.tolist()):
            if clip >= 0:
                sums[clip] += softmax[row]
    slots.close()
    labels = torch.tensor([clip.label for clip in clips.clips])
    assert printed["val_top1"] == float((sums.argmax(1) == labels).double().mean())
    assert printed["val_top5"] == 1.0


@pytest.mark.long
def test_the_resolved_configuration_reproduces_the_run(
    videos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, _ = trained
    resolved = tomllib.loads((run / "run.toml").read_text())
    assert resolved["split"] == [2, 3, 3]
    given = load(run.parent.parent / "run.toml")
    found = given.model_copy(update={"data": given.data.model_copy(update={"jitter": "decoders"})})  # without a GPU
    assert load(run / "run.toml").model_copy(update={"name": "it"}) == found
    done = sideways("train", run / "run.toml", "--set", "name=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same_model(run, tmp_path / "runs" / "again")


def same_model(first: Path, second: Path) -> bool:
    models: list[dict[str, Tensor]] = [load_file(run / "model.safetensors") for run in (first, second)]
    return set(models[0]) == set(models[1]) and all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_export_loads_into_the_plain_model(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, _ = trained
    out = tmp_path / "out.safetensors"
    done = sideways("export", run, out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load(run / "run.toml")
    build(config, 3).load_state_dict(load_file(out))
    missing = sideways("export", tmp_path / "no-such-run", out, cwd=tmp_path)
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=environment(), stdout=out, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def test_one_torchrun_command_gives_the_same_model(
    videos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    write_run_file(tmp_path / "run.toml", tree_of(videos))
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    finish(torchrun("--nproc-per-node", "4", *address, "-m", "coordinator", "join", "run.toml", cwd=tmp_path))
    assert same_model(trained[0], tmp_path / "runs" / "it")


@pytest.mark.long
@pytest.mark.parametrize("first", ["stage"])
def test_two_torchrun_agents_give_the_same_model(
    videos: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path, first: str
) -> None:
    write_run_file(tmp_path / "run.toml", tree_of(videos))
    rendezvous = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "r", "--local-addr", "127.0.0.1"]
    rendezvous += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    processes = {"coordinator": ["1", "run.toml"], "stage": ["3"]}
    agents = []
    for role in sorted(processes, key=lambda role: role != first):
        count, *run_file = processes[role]
        join = ["-m", "coordinator", "join", *run_file, "--role", role]
        agents.append(torchrun(*rendezvous, "--nproc-per-node", count, *join, cwd=tmp_path))
    for agent in agents:
        finish(agent)
    assert same_model(trained[0], tmp_path / "runs" / "it")


@pytest.mark.long
def test_a_wrong_number_of_processes_is_an_error(videos: Path, tmp_path: Path) -> None:
    write_run_file(tmp_path / "run.toml", tree_of(videos))
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    process = torchrun("--nproc-per-node", "3", *address, "-m", "coordinator", "join", "run.toml", cwd=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stages = 3, but 2 stage workers joined" in output


@pytest.mark.long
def test_stages_that_disagree_about_an_edge_are_both_named(videos: Path, tmp_path: Path) -> None:
    """As if the model file were different on another host: here, its width depends on the process."""
    (tmp_path / "mine.py").write_text(
        "import os\nfrom torch import nn\n"
        "def build(classes):\n"
        "    width = 9 if os.environ['RANK'] == '3' else 8\n"
        "    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, width))\n"
        "    return nn.Sequential(flat, nn.Linear(width, width), nn.Linear(width, classes))\n"
    )
    tree = tree_of(videos, model="mine.py:build", model_args={}, split=[1, 1, 1])
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 1
    assert "stage 1 outputs [3, 8] of float32 but stage 2 expects [3, 9] of float32" in done.stderr


def test_a_users_own_model_is_split_by_measurement(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    big = nn.Sequential(nn.Linear(768, 768), nn.ReLU(inplace=True), nn.Linear(768, 8))\n"
        "    return nn.Sequential(nn.Flatten(), big, nn.ReLU(inplace=True), nn.Linear(8, classes))\n"
    )
    tree = tree_of(videos, model="mine.py:build", model_args={})
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    split = load(tmp_path / "runs" / "it" / "run.toml").split
    assert split is not None
    assert len(split) == STAGES
    assert sum(split) == 4
    assert "forward + backward ms" in done.stderr


@pytest.mark.long
@pytest.mark.timeout(500)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: apt-get install g++")
def test_compiled_stages_give_nearly_the_same_losses(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only nearly, as a compiler may change the order of additions."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    changes = {"compile": True, "ticks": 60, "optimiser": {"name": "SGD", "lr": 0.05}}
    tree = tree_of(videos, **changes)
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path, timeout=450)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "compiled").rglob("*.so"))
    losses = losses_of(tmp_path / "runs" / "it")
    plain, _ = reference_run(config_of(videos, **{**changes, "stages": STAGES, "compile": False}))
    assert len(losses) == 60 - (STAGES - 1)
    assert losses == pytest.approx(plain, rel=1e-3)


@pytest.mark.long
def test_autoencoding_with_evaluations_during_training_equals_the_reference(videos: Path, tmp_path: Path) -> None:
    changes = {"task": "autoencode", "model": "autoencoder", "evaluate_every": 50, "report__tensorboard": True}
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree_of(videos, **changes)), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    lines = [json.loads(line) for line in (tmp_path / "runs/it/metrics.jsonl").read_text().splitlines()]
    curve = [(line["tick"], line["val_mse"]) for line in lines if line["kind"] == "evaluation"]
    assert [tick for tick, _ in curve] == [50, 100, 120]
    assert curve[-1][1] == summary["val_mse"] < curve[0][1]
    events = EventAccumulator(str(tmp_path / "runs/it/tensorboard")).Reload()
    assert [event.step for event in events.Scalars("evaluation/val_mse")] == [50, 100, 120]
    assert [event.step for event in events.Images("frame and reconstruction")] == [50, 100, 120]
    assert {"stage 0/tick_ms", "stage 2/loss", "stage 1/compute_ms"} <= set(events.Tags()["scalars"])
    # packets in flight are kept during an evaluation: evaluations do not change the training
    reference = reference_run(config_of(videos, stages=STAGES, ticks=TICKS, task="autoencode", model="autoencoder"))[0]
    assert losses_of(tmp_path / "runs" / "it") == reference


def test_nothing_listens_beyond_loopback(videos: Path, tmp_path: Path) -> None:
    background = Background(write_run_file(tmp_path / "run.toml", tree_of(videos, ticks=100_000)))
    background.wait_for_tick(20)
    listening = {
        connection.laddr.ip
        for pid in [background.process.pid, *background.members().values()]
        for connection in psutil.Process(pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    background.process.terminate()
    assert background.end(30) == 143
    assert listening
    assert listening <= {"127.0.0.1", "::1"}, listening


def test_accuracy_on_unseen_digits_reaches_70_percent(tmp_path: Path) -> None:
    """With 3 stages and a fixed seed, within 600 ticks. Chance is 0.10."""
    draw = [sys.executable, str(ROOT / "examples/make_digits.py"), "data/digits", "--images", "900"]
    subprocess.run(draw, cwd=tmp_path, check=True, timeout=100)
    overrides = ["stages=3", "split=[2,3,3]", "threads=1", "seed=0", "epochs=1.0", "data.slots=64"]
    arguments = [part for override in overrides for part in ("--set", override)]
    done = sideways("train", ROOT / "examples/digits.toml", *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ticks"] <= 600
    assert summary["val_top1"] >= 0.70
