"""`sideways init`: a commented run file for a folder of videos, with settings that suit them and this machine."""

import json
import os
import re
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common.config.run_file import parse
from common.config.settings import Config
from common.errors import ConfigError, SidewaysError
from coordinator.tools.folder_survey import FolderSurvey

_TICKS = 2000  # of a first training: enough to see whether it learns
_PER_STAGE = 4  # frames of most clips for each stage above the bottom one, twice what a gradient takes to get there
_MEMORY = 12  # frames of most clips from which seeing motion is worthwhile
_WIDTH = 110  # columns of comments
_SIDE = re.compile(r"(?<![A-Za-z])(left|right|LEFT|RIGHT)(?![a-z])|(Left|Right)(?![a-z])")  # turn_left, TurnLeft


@dataclass(frozen=True)
class Machine:
    """What the settings depend on. Attributes: cores (CPU cores), gpus, free (bytes of free memory)."""

    cores: int
    gpus: int
    free: int

    @staticmethod
    def here() -> "Machine":
        """This machine."""
        import psutil
        import torch

        return Machine(len(os.sched_getaffinity(0)), torch.cuda.device_count(), psutil.virtual_memory().available)


@dataclass(frozen=True)
class Suggestion:
    """Settings that suit the videos. Attributes as in the run file; cache_size in MiB, 0 for no cache."""

    size: int
    resize: int
    channels: int
    slots: int
    stages: int
    ticks: int
    epochs: float
    motion: bool
    cache_size: int


def suggest(found: FolderSurvey, machine: Machine) -> Suggestion:
    """Choose the settings."""
    classify, clips, frames = found.task == "classify", len(found.lengths), sum(found.lengths)
    short = sorted(found.lengths)[clips // 10]  # nine clips in ten are at least as long
    side = min(found.width, found.height)
    size = max(16, min(side, 112 if machine.gpus else 64) // 16 * 16)
    resize = size * 9 // 8 if side >= size * 9 // 8 else size
    channels = 1 if found.grey else 3
    slots = _power_of_two(min(32 if classify else 8, clips))
    epochs = max(1.0, min(100.0, float(round(_TICKS * slots / frames))))
    pixels = resize * round(resize * max(found.width, found.height) / side)
    # more than once, as a clip is counted twice if two processes decode it at the same time, some are larger than the
    # median, and those of val come on top; 16 bits are two bytes
    mebibytes = 1 + (3 if found.val is None else 4) * (1 + found.deep) * frames * channels * pixels // 2**20
    return Suggestion(
        size,
        resize,
        channels,
        slots,
        max(1, min(8, machine.gpus or machine.cores, 1 + short // _PER_STAGE)),
        max(1, round(epochs * frames / slots)),
        epochs,
        classify and short >= _MEMORY,
        mebibytes if mebibytes * 2**20 <= machine.free // 8 else 0,
    )


def text_of(found: FolderSurvey, chosen: Suggestion, machine: Machine, memory_mib: float | None = None) -> str:
    """The run file. `memory_mib`: predicted for all stages together; None if it is not known."""
    classify = found.task == "classify"
    lines = [
        *_comment(f"Written by `sideways init`, which found {description(found)}. Every setting: docs/settings.md"),
        *[line for note in found.notes for line in _comment(f"Note: {note}")],
        "",
        _line("task", found.task, "each clip has a class" if classify else "no labels: learn to reproduce the frames"),
        _line("model", "vgg8" if classify else "autoencoder", 'or another of docs/models.md, or "mine.py:build"'),
        *_comment(_why_stages(machine)),
        _line("stages", chosen.stages),
        *([_line("skips", "auto", "let more than 4 stages learn nearly as fast as few")] if classify else []),
        _line("epochs", chosen.epochs, f"about {chosen.ticks} ticks of {chosen.slots} frames"),
        *([_line("evaluate_every", max(100, -(-chosen.ticks // 5)), "ticks")] if found.val else []),
        "",
        "[model_args]",
        _line("width", 16, "channels of the first layer: more learn more, and cost more"),
        *_temporal(chosen, classify),
        "",
        "[data]",
        _line("train", str(found.train)),
        _line("val", str(found.val)) if found.val else '# val = "…"  # clips to evaluate on: none were found',
        *_comment(
            f"{chosen.slots} clips are played at the same time"
            + (f"; the stages need about {memory_mib:.0f} MiB in all" if memory_mib is not None else "")
        ),
        _line("slots", chosen.slots),
        _line("size", chosen.size, f"pixels; the frames have {found.width} × {found.height}"),
        *_rectangle(found, chosen.size),
        _line("resize", chosen.resize, "short side before the crop"),
        _line("channels", chosen.channels, "grey" if found.grey else "RGB"),
        *([_line("bits", 16, "the frames have more than 8")] if found.deep else []),
        *([_flip(found.classes)] if classify else []),
        "# window = 16  # play a random part of each clip; good if their lengths differ much",
        *_cache(chosen),
        "",
        "[optimiser]",
        "lr = 2e-3",
        'schedule = "cosine"',
        f"warmup = {min(50, chosen.ticks // 10)}",
        "ema = 0.99  # an average of the weights is evaluated and saved",
    ]
    return "\n".join(lines) + "\n"


def settings_of(text: str) -> Config:
    """The settings of such a text. Raises ConfigError."""
    try:
        return parse(tomllib.loads(text), "the new run file")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the folder's path cannot be written to a run file ({error}): rename it") from error


def memory_of(config: Config, classes: int) -> float:
    """Predicted memory of all stages together, in MiB. Builds and times the model."""
    from coordinator.tools.partition import Arrangement, compare

    found = compare(config, classes, [Arrangement(1, config.stages)], lambda text: None)
    return sum(found.predictions[0].memory_mib)


def refuse_existing(file: Path) -> None:
    """Raise ConfigError if the file exists."""
    if file.exists():
        raise ConfigError(f"{file} already exists and is not overwritten: remove it, or pass --out with another name")


def write(file: Path, text: str) -> None:
    """Write the file, unless it exists. Raises SidewaysError."""
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise SidewaysError("the folder's name is not UTF-8, as run files are: rename it") from error
    try:
        with open(file, "xb") as out:
            out.write(content)
    except FileExistsError:
        refuse_existing(file)
    except OSError as error:
        raise SidewaysError(f"cannot write {file}: {error.strerror}") from error


def description(found: FolderSurvey) -> str:
    """What was found, as part of a sentence."""
    lengths = found.lengths
    classes = f" of {len(found.classes)} classes" if found.task == "classify" else ""
    return (
        f"{len(lengths)} clips{classes} in {found.train}, of {min(lengths)} to {max(lengths)} frames (median "
        f"{median(lengths):g}), {found.width} × {found.height} pixels, {found.rate:g} frames a second"
    )


def _why_stages(machine: Machine) -> str:
    where = f"{machine.gpus} GPUs" if machine.gpus else f"{machine.cores} CPU cores"
    return (
        f"processes, each with a part of the model. The gradient of a frame takes 2 × (stages - 1) frames to the "
        f"bottom stage, and does not reach it in clips that are shorter. This machine has {where}"
    )


def _temporal(chosen: Suggestion, classify: bool) -> list[str]:
    if chosen.motion:
        return [_line("temporal", "motion", "memory: the first layer also sees the differences to earlier frames")]
    return ['# temporal = "motion"  # memory, to see motion: for clips of at least 12 frames'] if classify else []


def _flip(classes: Sequence[str]) -> str:
    sided = next((name for name in classes if _SIDE.search(name)), None)
    if sided is None:
        return _line("flip", 0.5, "half of the clips are mirrored; 0 if left and right matter")
    return _line("flip", 0, f"not mirrored, as left and right matter: a class is named {_plain(sided)}")


def _cache(chosen: Suggestion) -> list[str]:
    if not chosen.cache_size:
        return ['# cache = "cache"  # a folder for decoded frames, so that later epochs need no decoding']
    size = f"{chosen.cache_size} MiB"
    return [_line("cache", "memory", "later epochs need no decoding"), _line("cache_size", size)]


def _rectangle(found: FolderSurvey, size: int) -> list[str]:
    """A size with the frames' ratio of sides, in multiples of 16, unless that is a square."""
    short = min(found.width, found.height)
    sides = [max(size, size * side // short // 16 * 16) for side in (found.height, found.width)]
    return [f"# size = {sides}  # height and width, instead of a square"] if sides[0] != sides[1] else []


def _line(name: str, value: object, comment: str = "") -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}" + (f"  # {comment}" if comment else "")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _power_of_two(most: int) -> int:
    return 1 << (most.bit_length() - 1)
