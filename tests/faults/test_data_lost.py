"""Data that vanish during a run: one error, the model and a checkpoint are kept, and the run can be resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support.oracles import losses_of
from tests.support.processes import Background, sideways
from tests.support.settings import settings, write_run_file
from tests.support.videos import write_clip
from tests.support.waiting import wait_until


def begin(folder: Path, **changes: Any) -> Background:
    """Start a run of practically endless length on a folder of its own, with its first checkpoint far ahead."""
    for number in range(4):
        write_clip(folder / "data" / "ab"[number % 2] / f"{number}.mp4", 30, seed=number)
    tree = settings(
        folder, data__train="data", ticks=1_000_000, checkpoint__every=100_000, name="it", report__redis=True, **changes
    )
    return Background(write_run_file(folder / "run.toml", tree))


@pytest.mark.long
def test_when_the_data_vanish_the_run_stops_with_a_checkpoint_and_can_be_resumed(tmp_path: Path) -> None:
    background = begin(tmp_path, stages=3)
    background.wait_for_tick(100)
    (tmp_path / "data").rename(tmp_path / "away")
    assert background.end(60) == 1
    output, run = " ".join(background.output().split()), tmp_path / "runs" / "it"
    assert "none of the 4 clips can be decoded" in output
    assert "sideways train --resume runs/it" in output
    assert "Traceback" not in output
    assert "is gone" not in output
    assert "restarting all processes" not in output
    (checkpoint,) = (run / "checkpoints").iterdir()
    kept = int(checkpoint.name)
    assert kept > 100
    assert f"The model of tick {kept} is saved" in output
    assert len(losses_of(run)) == kept - 2  # the top of three stages has a loss from tick 2 on
    assert load_file(run / "model.safetensors")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"

    (tmp_path / "away").rename(tmp_path / "data")
    done = sideways("train", "--resume", "runs/it", "--set", f"ticks={kept + 30}", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"at tick {kept}, with the activations and gradients in flight" in " ".join(done.stderr.split())
    assert json.loads(done.stdout.splitlines()[-1])["ticks"] == kept + 30
    assert len(losses_of(run)) == kept + 28


@pytest.mark.long
@pytest.mark.parametrize("task", ["autoencode", "predict"])
def test_when_the_data_vanish_a_run_with_frame_sized_targets_keeps_its_model(tmp_path: Path, task: str) -> None:
    background = begin(tmp_path, stages=3, task=task, model="autoencoder", model_args={"width": 4}, ahead=2)
    background.wait_for_tick(60)
    shutil.rmtree(tmp_path / "data")
    assert background.end(60) == 1
    assert "is saved" in background.output()
    assert load_file(tmp_path / "runs" / "it" / "model.safetensors")


@pytest.mark.long
def test_when_validation_clips_vanish_checkpoint_and_model_are_kept(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos / "val", tmp_path / "val")
    tree = settings(
        videos, stages=2, ticks=400, name="it", data__val="val", evaluate_every=300, checkpoint__every=100_000
    )
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(20)
    shutil.rmtree(tmp_path / "val")
    code = background.end(60)
    run = tmp_path / "runs" / "it"
    assert (run / "checkpoints" / "0000000300").is_dir()
    assert load_file(run / "model.safetensors")
    assert code == 0 or "is saved" in background.output()


@pytest.mark.long
def test_a_run_without_a_single_frame_leaves_no_directory(tmp_path: Path) -> None:
    """The data vanish after they have been found and before the first frame is read."""
    background = begin(tmp_path, stages=2)
    wait_until(lambda: (tmp_path / "runs" / "it").is_dir())
    shutil.rmtree(tmp_path / "data")
    assert background.end(60) == 1
    assert "none of the 4 clips" in background.output()
    assert "--resume" not in background.output()
    assert not (tmp_path / "runs" / "it").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("http://user:s3@cret@127.0.0.1:9/a.ts?pwd=s3cret", "Connection refused", marks=pytest.mark.long),
        pytest.param("nothing.mp4", "No such file or directory", marks=pytest.mark.long),
        pytest.param("song.mp4", "it has no video stream", marks=pytest.mark.long),
    ],
)
def test_a_live_source_that_never_opens_is_named_without_its_password(tmp_path: Path, source: str, reason: str) -> None:
    import av
    import numpy as np

    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        song = container.add_stream("aac", rate=44100)
        assert isinstance(song, av.AudioStream)
        song.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux([*song.encode(sound), *song.encode()])
    tree = settings(tmp_path, task="autoencode", model="autoencoder", model_args={"width": 4}, name="it")
    tree["data"] = {"sources": [source], "slots": 2, "size": 16, "source_timeout": 1.0}
    tree |= {"network": {"deadline": 4}, "recovery": {"restarts": 5}}
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("sideways:")]
    assert len(lines) == 1, done.stderr
    assert "no source has delivered a frame for 3 s" in lines[0]
    assert reason in lines[0]
    assert "s3" not in lines[0]
    assert not (tmp_path / "runs" / "it").exists()
