"""The tools on the command line, applied to a real run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config.run_file import load
from tests.support.processes import sideways
from tests.support.settings import settings, write_run_file


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of a torchvision model with initial weights from a file: its directory and its summary."""
    from common.torchvision_import import models

    folder = tmp_path_factory.mktemp("tools")
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_large(num_classes=1000).state_dict(), folder / "official.pth")
    changes = {"model": "mobilenet_v3_large", "model_args": {}, "weights": "official.pth", "split": [9, 9]}
    tree = settings(videos, **changes, data__val=str(videos / "val"), data__size=32, ticks=12, name="it")
    done = sideways("train", write_run_file(folder / "run.toml", tree), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "it", json.loads(done.stdout.splitlines()[-1])


def test_eval_equals_the_trainings_own_evaluation(trained: tuple[Path, dict[str, Any]]) -> None:
    run, summary = trained
    done = sideways("eval", run, "--json", cwd=run.parent.parent)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"top1", "top5", "mean_class", "loss", "clips"}
    assert (figures["top1"], figures["top5"]) == (summary["val_top1"], summary["val_top5"])
    assert "one centre crop of 32 × 32" in " ".join(done.stdout.replace("│", " ").split())
    rows = list(csv.reader((run / "confusion.csv").read_text().splitlines()))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == figures["clips"] == 6
    assert (run / "confusion.png").stat().st_size > 1000


@pytest.mark.long
def test_an_exported_model_predicts_the_same(
    trained: tuple[Path, dict[str, Any]], videos: Path, tmp_path: Path
) -> None:
    run, _ = trained
    done = sideways("export", run, "out.pt2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = []
    for model in (run, "out.pt2"):
        arguments = ("predict", model, videos / "val/cat/1.mp4", "--csv", "scores.csv", "--json")
        done = sideways(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
        assert len((tmp_path / "scores.csv").read_text().splitlines()) == results[-1]["frames"] + 1
    assert [entry["class"] for entry in results[0]["top"]] == [entry["class"] for entry in results[1]["top"]]
    for one, other in zip(results[0]["top"], results[1]["top"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_saved_weights_load_into_torchvisions_model(trained: tuple[Path, dict[str, Any]]) -> None:
    from safetensors.torch import load_file

    from common.torchvision_import import models

    run, _ = trained
    weights = load_file(run / "model.safetensors")
    models.mobilenet_v3_large(num_classes=3).load_state_dict(weights)
    official = torch.load(run.parent.parent / "official.pth")
    step = load(run / "run.toml").optimiser.lr * 12  # AdamW without momentum moves a weight by about lr per tick
    moved = [
        weights[name] - official[name] for name in weights if name.endswith("weight") and "classifier.3" not in name
    ]
    assert 0 < max(float(change.abs().max()) for change in moved) < 3 * step


def test_an_error_is_printed_without_a_traceback(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, _ = trained
    done = sideways("predict", run, "nothing.mp4", cwd=tmp_path)
    assert done.returncode == 1
    assert "nothing.mp4" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("labelled", [True, False])
def test_the_run_file_of_init_trains_as_it_is(videos: Path, tmp_path: Path, labelled: bool) -> None:
    done = sideways("init", videos if labelled else videos / "train/ant", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = sideways("train", "run.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["ticks"] > 1000
    assert ("val_mse" in summary) != labelled
    assert (summary["val_top1"] is not None) == labelled
