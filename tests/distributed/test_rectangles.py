"""Frames that are not square, through everything: training, evaluation, prediction, export, Python."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.oracles import losses_of, reference_run
from tests.support.processes import sideways
from tests.support.settings import config_of, settings, write_run_file

SIZE = [16, 24]


@pytest.mark.long
@pytest.mark.parametrize("task", ["classify", "autoencode"])
def test_frames_that_are_not_square(videos: Path, tmp_path: Path, task: str) -> None:
    from sideways import load

    changes: dict[str, Any] = {"ticks": 60, "data__size": SIZE, "data__resize": 18, "data__scale": [0.5, 1.0]}
    changes |= {"task": task, "model": "vgg8" if task == "classify" else "autoencoder"}
    tree = settings(videos, name="it", data__val=str(videos / "val"), data__cache="memory", **changes)
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    run = tmp_path / "runs/it"
    assert losses_of(run) == reference_run(config_of(videos, **changes))[0]
    done = sideways("eval", run, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    name = "top1" if task == "classify" else "mse"
    assert figures[name] == pytest.approx(summary[f"val_{name}"], rel=1e-5)
    assert sideways("export", run, "out.pt2", cwd=tmp_path).returncode == 0
    models = [load(run), load(tmp_path / "out.pt2")]
    frames = torch.randint(0, 256, (3, 40, 48, 3), dtype=torch.uint8)
    inputs = models[0].transform(frames)
    assert inputs.shape == (3, 3, *SIZE)
    with torch.no_grad():
        outputs = [model(inputs) for model in models]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-4)
    if task == "classify":
        done = sideways("predict", run, videos / "val/cat/1.mp4", "--json", cwd=tmp_path)
        found = json.loads(done.stdout.splitlines()[-1])["top"][0]
        name, score = models[0].predict(videos / "val/cat/1.mp4").top(1)[0]
        assert (found["class"], found["score"]) == (name, pytest.approx(score, abs=1e-4))
