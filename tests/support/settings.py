"""Settings of small runs on the test videos."""

from pathlib import Path
from typing import Any

from common.config.run_file import parse
from common.config.settings import Config

STRAIGHT = 200  # ticks of the undisturbed run
SPLITS = {1: [8], 2: [3, 5], 3: [2, 3, 3], 4: [2, 2, 2, 2], 5: [2, 2, 2, 1, 1]}


def settings(videos: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a small run on the test videos. `changes` has keys of the form section__key."""
    tree: dict[str, Any] = {
        "model": "vgg8",
        "model_args": {"width": 4},
        "stages": 2,
        "ticks": 200,
        "device": "cpu",
        "threads": 1,
        "seed": 3,
        "data": {"train": str(videos / "train"), "slots": 3, "size": 16, "flip": 0.5},
        "optimiser": {"lr": 3e-3},
        "report": {"losses": True, "every": 0.2, "tensorboard": False, "redis": False},  # both are slow to start
        "network": {"deadline": 20},
        "recovery": {"restarts": 0},  # so that tests see every failure
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    if "train_labels" in tree["data"]:  # files beside the videos
        tree["data"]["train_labels"] = str(videos / tree["data"]["train_labels"])
    if tree.get("task") == "regress":
        tree["data"].setdefault("flip_targets", [])
    if tree["model"] in ("vgg8", "autoencoder"):
        tree.setdefault("split", SPLITS[tree["stages"]])
    return tree


def config_of(videos: Path, **changes: Any) -> Config:
    """The same settings, validated."""
    return parse(settings(videos, **changes), "test")


def write_run_file(path: Path, tree: dict[str, Any]) -> Path:
    """Write settings as TOML."""
    import tomli_w

    path.write_text(tomli_w.dumps(tree))
    return path


def slow_run(videos: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a run that is slow enough to be disturbed, at about 6 ms per tick."""
    slow = {"model_args": {"width": 12}, "data__size": 32, "data__slots": 8, "stages": 3, "name": "it"}
    return settings(videos, **{**slow, "ticks": STRAIGHT, "checkpoint__every": 50, "checkpoint__keep": 9, **changes})
