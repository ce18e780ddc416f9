"""Whole runs with labels of each kind: training, evaluation, a stop in mid-clip and resume, `sideways eval`."""

import json
import signal
from pathlib import Path

import pytest

from common.config.run_file import parse
from tests.support.labels import FRAMES, NUMBERS, write_table
from tests.support.oracles import losses_of, reference_run
from tests.support.processes import Background, sideways
from tests.support.settings import STRAIGHT, settings, slow_run, write_run_file

MINE = """
def loss(y, target):
    return (y - target).abs().sum(1)

def largest(answers, labels):
    return (answers - labels).abs().max()
"""


@pytest.mark.long
def test_labels_of_frames_resume_in_the_middle_of_clips_bit_for_bit(videos: Path, tmp_path: Path) -> None:
    labels = {"data__labels_of": "frames", "data__train_labels": FRAMES}
    tree = slow_run(videos, **labels, checkpoint__every=0, rule__auxiliary=0.2)
    losses, _ = reference_run(parse(tree, "test"))
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(60)
    background.send(signal.SIGTERM)
    assert background.end(30) == 143
    run = tmp_path / "runs" / "it"
    assert 60 < json.loads((run / "summary.json").read_text())["ticks"] < STRAIGHT
    done = sideways("train", "--resume", "runs/it", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert losses_of(run) == losses


@pytest.mark.long
def test_a_run_with_a_loss_and_figures_of_ones_own(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    clips = sorted((videos / "val").rglob("*.mp4"))
    rows: list[list[object]] = [
        [path.relative_to(videos / "val").as_posix(), number, -number, 0.5] for number, path in enumerate(clips)
    ]
    rows[2][1:] = ["", "", ""]
    changes = {
        "task": "regress",
        "loss": "mine.py:loss",
        "val_metrics": ["mine.py:largest", "SpearmanCorrCoef"],
        "checkpoint__best": "-val_largest",
        "data__train_labels": NUMBERS,
        "data__val": str(videos / "val"),
        "data__val_labels": str(write_table(tmp_path / "val.csv", ["path", "x", "y", "z"], rows)),
        "evaluate_every": 20,
        "ticks": 40,
        "name": "it",
    }
    file = write_run_file(tmp_path / "run.toml", settings(videos, **changes))
    done = sideways("train", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary, run = json.loads(done.stdout.splitlines()[-1]), tmp_path / "runs" / "it"
    figures = {name: summary[f"val_{name}"] for name in ("mse", "mae", "r2", "largest", "spearman_corr_coef")}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["kind"] == "evaluation"]
    assert [line["val_clips"] for line in scored] == [5, 5]  # one has no label
    positions = [json.loads(path.read_text()) for path in sorted((run / "checkpoints").glob("*/position.json"))]
    assert [(at["score"], at["figure"]) for at in positions] == [
        (-line["val_largest"], "-val_largest") for line in scored
    ]
    done = sideways("eval", run, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        **{name: pytest.approx(value, rel=1e-4) for name, value in figures.items()},
        "clips": 5,
    }
    done = sideways(
        "train",
        file,
        "--set",
        "checkpoint.best=val_top1",
        "--set",
        "name=other",
        "--set",
        "val_metrics=[]",
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert 'checkpoint.best = "val_top1" is not a figure of this run: val_mse, val_mae, val_r2' in done.stderr
    assert not (tmp_path / "runs" / "other").exists()
