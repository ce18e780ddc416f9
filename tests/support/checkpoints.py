"""Checkpoints of a small model, and their positions."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from coordinator.checkpoints.position import Position
from coordinator.checkpoints.store import Checkpoints

MODEL: dict[str, Tensor] = {"model.a.weight": torch.arange(6.0).view(2, 3), "model.a.steps": torch.tensor(7)}


SHAPES: dict[str, tuple[int, ...]] = {"a.weight": (2, 3), "a.steps": ()}


def position(tick: int, score: float | None = None, **changes: object) -> Position:
    known = {
        "origin": 0,
        "precision": "float32",
        "optimiser": "[]",
        "split": [1, 1],
        "algorithm": "sideways",
        "task": "classify",
        "ahead": 1,
    }
    rest = {"frame_shape": [1, 3, 8, 8], "places": [(0, 5)], "clips": "abc", "seconds": 1.5, "score": score}
    return Position(tick=tick, **{**known, **rest, **changes})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning")
def keep(checkpoints: Checkpoints, made: Position, model: dict[str, Tensor] | None = None) -> Path:
    part = checkpoints.begin(made.tick)
    save(model or MODEL, storage_writer=FileSystemWriter(part), no_dist=True)
    checkpoints.commit(part, made)
    return part.with_name(part.name.removesuffix(".part"))
