"""Runs that a Python program starts: its results, its callbacks, and its end."""

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

import sideways
from tests.support.processes import environment
from tests.support.settings import settings, slow_run, write_run_file
from tests.support.waiting import wait_until

# no `if __name__ == "__main__":`, and a model that is defined here with the help of a package named like one of ours
SCRIPT = """
import json, sys
from pathlib import Path
from torch import nn
from common.sizes import WIDTH
import sideways

def build(classes, channels):
    from common.sizes import head
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, 2), nn.ReLU(), nn.Flatten(), head(WIDTH * 49, classes))

events = []
result = sideways.train("run.toml", model=build, model_args={}, stages=2, split=[1, 3], callbacks=[events.append])
model = result.model()
top = model.predict(sys.argv[1]).top()
curves = {name: curve.tolist() for name, curve in result.curves.items()}
import common
print(json.dumps([str(result.directory), result.summary, curves, events, top, common.__file__]))
"""

ROOT = Path(__file__).parents[2]


def start(folder: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "script.py", *map(str, arguments)]
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=out, text=True)


def test_a_script_trains_a_model_that_it_defines_itself(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").touch()
    (tmp_path / "common/sizes.py").write_text("from torch.nn import Linear as head\nWIDTH = 5")
    (tmp_path / "script.py").write_text(SCRIPT)
    write_run_file(tmp_path / "run.toml", settings(videos, ticks=30, data__val=str(videos / "val")))
    process = start(tmp_path, videos / "val/cat/1.mp4")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    directory, summary, curves, events, top, theirs = json.loads(out.splitlines()[-1])
    assert Path(directory).name.startswith("run-2")
    assert summary == json.loads((Path(directory) / "summary.json").read_text())
    lines = [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]
    assert events == lines
    assert curves["val_top1"] == [[30, summary["val_top1"]]] == [[summary["val_best_tick"], summary["val_best"]]]
    assert np.array(curves["loss"]).shape[1] == 2
    assert {name for name, _ in top} == {"ant", "bee", "cat"}
    assert theirs == str(tmp_path / "common/__init__.py")
    assert "val_top1" in err, "the run's messages are passed on"


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"data": {"train": "nowhere"}}, sideways.DataError, "there is no folder nowhere"),
        ({"model": "mine.py:build"}, sideways.ConfigError, "there is no file .*mine.py"),
    ],
)
def test_a_failed_run_raises_its_own_error(
    changes: dict[str, Any], kind: type[Exception], message: str, videos: Path, tmp_path: Path
) -> None:
    file = write_run_file(tmp_path / "run.toml", settings(videos, runs=str(tmp_path / "runs")))
    with pytest.raises(kind, match=message):
        sideways.train(file, **changes)


@pytest.mark.long
def test_a_killed_stage_is_named_and_the_run_can_be_resumed(videos: Path, tmp_path: Path) -> None:
    """By a Python program whose callback notices."""
    file = write_run_file(
        tmp_path / "run.toml", slow_run(videos, runs=str(tmp_path / "runs"), checkpoint__every=20, ticks=10**6)
    )

    def kill(event: dict[str, Any]) -> None:
        if event["tick"] > 60:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has just ended
                    if child.name() == "stage1":
                        child.kill()

    with pytest.raises(sideways.SidewaysError, match=r"stage 1 .* was killed by SIGKILL"):
        sideways.train(file, callbacks=[kill])
    ticks: list[int] = []
    run = tmp_path / "runs" / "it"
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    result = sideways.train(resume=run, ticks=saved + 40, callbacks=[lambda event: ticks.append(event["tick"])])
    assert result.directory == run
    assert result.summary["ticks"] == saved + 40
    assert min(ticks) >= saved >= 20
    assert result.curves["loss"][0, 0] < 20


STOPPED = """
import os, signal, sideways
def stop(event):
    if event["tick"] > 30:
        {how}
try:
    sideways.train("run.toml", callbacks=[stop])
except {kind}:
    print("stopped")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", "KeyboardInterrupt"),
        ("raise ValueError('enough')", "ValueError"),
    ],
)
def test_an_exception_stops_the_run_in_order(how: str, kind: str, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(dedent(STOPPED.format(how=how, kind=kind)))
    write_run_file(tmp_path / "run.toml", slow_run(videos, ticks=100_000))
    process = start(tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out.splitlines()[-1]) == (0, "stopped"), err
    assert (tmp_path / "runs/it/model.safetensors").is_file()
    assert 30 < json.loads((tmp_path / "runs/it/summary.json").read_text())["ticks"] < 100_000


@pytest.mark.long
def test_a_callback_stops_the_run_and_its_result_is_resumed(videos: Path, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["tick"] > 30:
            raise sideways.Stop

    file = write_run_file(tmp_path / "run.toml", slow_run(videos, runs=str(tmp_path / "runs"), ticks=100_000))
    result = sideways.train(file, callbacks=[stop])
    ticks = result.summary["ticks"]
    assert 30 < ticks < 100_000
    assert result.model().classes == ["ant", "bee", "cat"]
    assert sideways.train(resume=result, ticks=ticks + 9).summary["ticks"] == ticks + 9


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_if_the_program_dies_the_run_stops_in_order(number: signal.Signals, videos: Path, tmp_path: Path) -> None:
    how = f"os.kill(os.getpid(), {int(number)})"
    (tmp_path / "script.py").write_text(dedent(STOPPED.format(how=how, kind="KeyboardInterrupt")))
    write_run_file(tmp_path / "run.toml", slow_run(videos, ticks=100_000))
    process = start(tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == -number
    wait_until((tmp_path / "runs/it/summary.json").is_file, 30)


@pytest.mark.long
def test_two_programs_threads_train_at_once(videos: Path, tmp_path: Path) -> None:
    """`train` needs no main thread, and runs that begin in the same second have directories of their own."""
    from concurrent.futures import ThreadPoolExecutor

    file = write_run_file(tmp_path / "run.toml", settings(videos, runs=str(tmp_path / "runs"), ticks=20))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: sideways.train(file), range(2)))
    assert len({result.directory for result in results}) == 2


DATASET = """
import json
from pathlib import Path
from torch.utils.data import Dataset
import sideways

class Clips(Dataset):
    "As a Hugging Face dataset with a video column that is not decoded."
    def __init__(self, part):
        self.paths = sorted((Path(FOLDER) / part).rglob("*.mp4"))
        self.classes = sorted({path.parent.name for path in self.paths})

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, n):
        return {"video": {"path": None, "bytes": self.paths[n].read_bytes()}, "label": self.paths[n].parent.name}

def train():
    return Clips("train")

val = Clips("val")
result = sideways.train("run.toml", dataset=train, validation=val)
print(json.dumps([str(result.directory), result.summary]))
"""


@pytest.mark.long
def test_a_dataset_of_ones_own_is_trained_on_as_its_files_are(videos: Path, tmp_path: Path) -> None:
    tree = settings(videos, ticks=40, data__val=str(videos / "val"), runs=str(tmp_path / "runs"))
    expected = sideways.train(write_run_file(tmp_path / "run.toml", tree))
    (tmp_path / "script.py").write_text(f"FOLDER = {str(videos)!r}\n{DATASET}")
    process = start(tmp_path)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    directory, summary = json.loads(out.splitlines()[-1])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (Path(directory), expected.directory))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert (summary["val_top1"], summary["unreadable_files"]) == (expected.summary["val_top1"], 0)


@pytest.mark.long
def test_the_snippets_of_the_documentation_run(videos: Path, tmp_path: Path) -> None:
    """Those of docs/python.md, one after another, with its model and run file."""
    page = (ROOT / "docs/python.md").read_text()
    model, run_file = re.findall(r"```(?:py|toml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(model)
    (tmp_path / "run.toml").write_text(run_file.replace("epochs = 10", "ticks = 20"))
    (tmp_path / "videos").symlink_to(videos)
    (tmp_path / "clip.mp4").symlink_to(videos / "val/cat/1.mp4")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    forward = "import torch\nassert build(3, 1)(torch.zeros(2, 1, 16, 16)).shape == (2, 3)"
    (tmp_path / "script.py").write_text("\n".join([*snippets, forward]))
    process = start(tmp_path)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert re.search(r"^\d\.\d{3} (ant|bee|cat)$", out, re.MULTILINE)


@pytest.mark.long
def test_the_readmes_run_file_and_snippet_train_and_classify(videos: Path, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (run_file,), (snippet,) = (re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL) for kind in ("toml", "python"))
    (tmp_path / "run.toml").write_text(run_file.replace("epochs = 10", "ticks = 20"))
    (tmp_path / "videos").symlink_to(videos)
    (tmp_path / "clip.mp4").symlink_to(videos / "val/bee/1.mp4")
    (tmp_path / "script.py").write_text(snippet)
    process = start(tmp_path)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert sorted(re.findall(r"^\d\.\d{3} (\w+)$", out, re.MULTILINE)) == ["ant", "bee", "cat"]
