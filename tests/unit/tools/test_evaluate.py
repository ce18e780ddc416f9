"""Evaluating a trained model."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from common.config.settings import Data
from common.errors import ConfigError, DataError
from coordinator.monitor.evaluation_scores import Evaluation, evaluation_of
from coordinator.tools import evaluate as assess
from coordinator.tools.trained_model import open_model
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import collect
from tests.support.settings import config_of
from tests.support.trained import CLASSES, by_hand, saved
from tests.support.videos import write_clip


def test_the_evaluation_is_the_mean_over_frames_of_each_clip(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    data = assess.data_for(trained, run, None, "*")
    clips = assess.find_clips(trained, data)
    scores, _ = assess.score(trained, clips, data)
    expected = [by_hand(config_of(videos, data__stride=2), clip.path).mean(0) for clip in clips.clips]
    torch.testing.assert_close(scores.sums / scores.frames[:, None], torch.stack(expected), rtol=1e-5, atol=1e-6)
    evaluation = evaluation_of(scores, trained.task)
    assert evaluation.clips == 6
    right = [int(mean.argmax()) == clip.label for mean, clip in zip(expected, clips.clips, strict=True)]
    scored = [float(mean[label]) for mean, label in zip(expected, scores.labels.tolist(), strict=True)]
    assert assess.figures(evaluation) == {
        "top1": pytest.approx(np.mean(right)),
        "top5": 1.0,
        "mean_class": pytest.approx(np.mean(right)),  # all classes have two clips
        "loss": pytest.approx(-np.mean(np.log(scored)), rel=1e-4),
        "clips": 6,
    }
    table, picture = assess.write_confusion(evaluation, CLASSES, tmp_path / "new")
    header, *rows = csv.reader(table.read_text().splitlines())
    assert header[1:] == [row[0] for row in rows] == CLASSES
    assert sum(int(row[1 + i]) for i, row in enumerate(rows)) == sum(right)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        ({"stride": 2}, "all frames at stride 2"),
        ({"fps": 12.5}, "all frames at 12.5 frames a second"),
        ({"snippets": 3, "window": 8}, "3 windows of 8 frames, at stride 1"),
    ],
)
def test_the_frames_that_were_played_are_said(run: Path, data: dict[str, Any], protocol: str) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    assess.show(Evaluation(1, 1, {"top1": 1.0}), Data(train=run, **data), open_model(run), console)
    assert f"pixels, {protocol}, softmax" in " ".join(console.export_text().replace("│", " ").split())


def test_other_clips_can_be_evaluated_by_a_pattern(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    data = assess.data_for(trained, run, videos / "train", "bee/*")
    assert [clip.path.parent.name for clip in assess.find_clips(trained, data).clips] == ["bee"] * 3
    write_clip(tmp_path / "new/dog/1.mp4", 5)
    data = assess.data_for(trained, run, tmp_path / "new", "*")
    with pytest.raises(DataError, match="dog"):
        assess.find_clips(trained, data)
    with pytest.raises(ConfigError, match=r"has no data\.val to evaluate on"):
        assess.data_for(trained, tmp_path / "out.safetensors", None, "*")


@pytest.mark.parametrize(("task", "ahead"), [("autoencode", 0), ("predict", 3)])
def test_outputs_are_compared_with_their_target_frames(tmp_path: Path, videos: Path, task: str, ahead: int) -> None:
    changes: dict[str, Any] = {"ahead": ahead} if ahead else {}
    config = config_of(videos, model="autoencoder", task=task, data__val=str(videos / "val"), **changes)
    run = saved(tmp_path, config, ["video"])
    trained = open_model(run)
    data = assess.data_for(trained, run, None, "*")
    scores, _ = assess.score(trained, assess.find_clips(trained, data), data)
    errors = []
    for clip in collect(config.data, "val", labelled=False).clips:
        frames = np.concatenate(list(read(clip.path, 1, config.data.short_side, 3)))
        x = trained.normalised(torch.from_numpy(middle(frames, config.data.size)(frames)))
        with torch.no_grad():
            y = trained.module(x)
        errors.append(float((y[: len(x) - ahead] - x[ahead:]).pow(2).mean()))
    assert evaluation_of(scores, trained.task).figures["mse"] == pytest.approx(np.mean(errors), rel=1e-5)
