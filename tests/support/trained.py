"""A run directory with a model."""

from pathlib import Path

import numpy as np
import torch

from common.config.settings import Config
from common.models import build
from coordinator.run_directory import RunDirectory
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.reader import read

CLASSES = ["ant", "bee", "cat"]


def saved(folder: Path, config: Config, classes: list[str] = CLASSES) -> Path:
    """Create a run directory with an untrained model."""
    run = folder / "run"
    run.mkdir(parents=True)
    directory = RunDirectory(run)
    directory.save_config(config)
    model = build(config, len(classes))
    directory.save_model(model.state_dict(), config, classes)
    return run


def by_hand(config: Config, video: Path) -> torch.Tensor:
    """The softmax of every frame, float64 [n, classes], computed without the code under test."""
    data, model = config.data, build(config, 3).eval()
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in data.normalisation)
    pixels = np.concatenate(list(read(video, data.stride, data.short_side, data.channels)))
    frames = torch.from_numpy(middle(pixels, data.size)(pixels))
    with torch.no_grad():
        return model((frames / 255 - mean) / std).double().softmax(1)
