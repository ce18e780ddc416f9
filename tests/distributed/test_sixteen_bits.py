"""Frames of 16 bits through a whole run: evaluation, checkpoints with such targets in flight, a resumed run, Python."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.depth import write_depth
from tests.support.oracles import losses_of, same_model
from tests.support.processes import sideways
from tests.support.settings import settings, write_run_file


@pytest.mark.long
def test_a_run_on_depth_videos(tmp_path: Path) -> None:
    import sideways as product

    for number in range(3):
        values = write_depth(tmp_path / f"videos/{number}.mkv", 12, size=(24, 16), seed=number)
    changes = {"task": "autoencode", "model": "autoencoder", "stages": 3, "ticks": 60, "checkpoint__every": 30}
    changes |= {"data__bits": 16, "data__channels": 1, "data__val": str(tmp_path / "videos"), "checkpoint__keep": 9}
    tree = settings(tmp_path, name="it", **changes)
    tree["data"]["train"] = str(tmp_path / "videos")
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run, again = tmp_path / "runs/it", tmp_path / "runs/again"
    shutil.copytree(run, again)
    for folder in (again / "checkpoints").iterdir():
        if folder.name.isdecimal() and int(folder.name) > 30:
            shutil.rmtree(folder)
    done = sideways("train", "--resume", again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30" in done.stderr
    assert same_model(run, again)
    assert losses_of(run) == losses_of(again)
    done = sideways("eval", run, "--json", cwd=tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1])["mse"] == pytest.approx(summary["val_mse"], rel=1e-5)
    model = product.load(run)
    expected = (torch.from_numpy(values.astype("int32"))[:, None, :, 4:20] / 65535 - 0.5) / 0.25
    torch.testing.assert_close(model.transform(values[..., None]), expected)
