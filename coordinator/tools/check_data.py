"""`sideways check`: decodes every frame of every clip as a run would, before the run.

Clips are independent, so threads decode them in parallel. The report lists bad files with reasons; numbers of clips,
classes and frames; sizes and frame rates; clip lengths against the bottom stage's mismatch; and the
smoothness of the data: the mean over successive frames of ||x_t - x_{t-1}|| / ||x_t||, on normalised frames as played
(Sideways assumes that x_t is close to x_{t-1}: smaller is better).
"""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.config.run_file import apply, load, parse
from common.config.settings import Config, Data
from common.errors import PATH_ERRORS, DataError, SidewaysError
from common.rule.pixels import Normaliser
from common.rule.schedule import schedule_of
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.frame_folder import pictures
from coordinator.video.decoding.media_info import MediaInfo, read_media_info
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import pixels
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip, Clips, collect
from coordinator.video.files.dataset_formats import in_quarantine

_SHOWN = 12  # maximum number of sizes and rates to report, the most frequent first


@dataclass
class FileCheck:
    """The result of decoding one clip.

    Attributes:
        frames: number of frames decoded, of those that a run would play.
        size: "WIDTHxHEIGHT" in pixels, as the file states it; empty if it does not.
        rate: frames per second, as the file states it; 0 if it does not.
        change: sum of ||x_t - x_{t-1}|| / ||x_t|| over `pairs` pairs of successive frames.
        reason: why the clip cannot be played, or not to its end; empty if it can.
        damage: which packets or pictures are skipped, and why; empty if none.
    """

    path: Path
    frames: int = 0
    size: str = ""
    rate: float = 0.0
    change: float = 0.0
    pairs: int = 0
    reason: str = ""
    damage: str = ""


@dataclass
class DatasetCheck:
    """The results for all clips of a data set."""

    clips: Clips
    findings: list[FileCheck] = field(default_factory=list)

    @property
    def bad(self) -> dict[Path, str]:
        """Files that cannot be played, or not to their end, with the reason."""
        return self.clips.bad | {finding.path: finding.reason for finding in self.findings if finding.reason}

    @property
    def damaged(self) -> dict[Path, str]:
        """Files that can be played except for some packets or pictures, with a description of those."""
        return {finding.path: finding.damage for finding in self.findings if finding.damage}

    @property
    def readable(self) -> list[FileCheck]:
        """The results of the clips that gave at least one frame."""
        return [finding for finding in self.findings if finding.frames]


def settings(source: str | Path, overrides: list[str]) -> Config:
    """The settings of a run file, or the defaults for a folder, a list or a split. Raises ConfigError."""
    if str(source).lower().endswith(".toml"):
        return load(Path(source), overrides)
    tree: dict[str, Any] = {"ticks": 1, "data": {"train": str(source)}}
    for override in overrides:
        apply(override, tree)
    return parse(tree, str(source))


def check(config: Config) -> list[DatasetCheck]:
    """Decode the training clips, and the validation clips if there are some. Raises DataError."""
    data = config.data
    if data.live:
        raise DataError("live sources cannot be checked: there are no files to decode")
    labelled, kind = config.has_labels, config.task
    train = collect(data, "train", labelled, allow_empty=True, task=kind)
    val = [collect(data, "val", labelled, train.classes, allow_empty=True, task=kind)] if data.val else []
    parts = [train, *val]
    return [_survey(clips, data) for clips in parts]


def figures(survey: DatasetCheck, config: Config) -> dict[str, Any]:
    """The report of a data set as numbers, by name."""
    found, frames = survey.readable, [finding.frames for finding in survey.readable]
    mismatch, pairs = schedule_of(config).mismatch(0), sum(finding.pairs for finding in found)
    mean = sum(frames) / len(frames) if frames else 0.0
    return {
        "data": str(survey.clips.root),
        "clips": len(found),
        "classes": len(survey.clips.classes),
        "frames": sum(frames),
        "bad_files": len(survey.bad),
        "damaged_files": len(survey.damaged),
        "quarantined_files": survey.clips.quarantined,
        "sizes": _frequent(finding.size for finding in found),
        "frame_rates": _frequent(f"{finding.rate:.4g}" for finding in found if finding.rate),
        "mean_clip_frames": round(mean, 2),
        "shortest_clip_frames": min(frames, default=0),
        "longest_clip_frames": max(frames, default=0),
        "stages": config.stages,
        "mismatch_frames": mismatch,
        "clips_within_mismatch": sum(length <= mismatch for length in frames),
        "smoothness": round(sum(finding.change for finding in found) / pairs, 4) if pairs else None,
    }


def summarise(surveys: list[DatasetCheck], config: Config) -> list[dict[str, Any]]:
    """Print bad and damaged files, notes and a table of `figures` per data set. Returns the figures."""
    console, reports = Console(highlight=False, soft_wrap=True), [figures(survey, config) for survey in surveys]
    for survey, report in zip(surveys, reports, strict=True):
        for path, reason in survey.bad.items():
            console.print(f"bad: {path}: {reason}", style="yellow", markup=False)
        for path, damage in survey.damaged.items():
            console.print(f"damaged: {path}: {damage}", style="yellow", markup=False)
        for text in survey.clips.notes:
            console.print(f"note: {text}", markup=False)
        table = Table(title=f"{survey.clips.root}", show_header=False)
        for name, value in report.items():
            table.add_row(name.replace("_", " "), _shown(value))
        console.print(table)
    return reports


def quarantine(surveys: list[DatasetCheck], file: Path) -> int:
    """Write the paths or addresses of the bad files to `file`, one per line. Returns their number.

    Raises:
        SidewaysError: it cannot be written.
    """
    paths = [in_quarantine(path) for survey in surveys for path in survey.bad]
    try:
        file.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8", errors=PATH_ERRORS)
    except OSError as error:
        raise SidewaysError(f"cannot write {file}: {error.strerror}") from error
    return len(paths)


def _survey(clips: Clips, data: Data) -> DatasetCheck:
    with ThreadPoolExecutor(max(data.threads, len(os.sched_getaffinity(0)))) as pool:
        findings: Iterable[FileCheck] = pool.map(lambda clip: _decode(clip, data), clips.clips)
        progress = track(findings, str(clips.root), len(clips.clips), console=Console(stderr=True), transient=True)
        return DatasetCheck(clips, list(progress))


def _decode(clip: Clip, data: Data) -> FileCheck:
    """Decode every frame of a clip that a run would play."""
    finding = FileCheck(clip.path)
    last, damage, normalise = None, Damage(), Normaliser(*data.normalisation)
    try:
        _describe(finding, clip, data)
        for chunk in pixels(decode_clip(clip, data, damage=damage)):
            cropped = torch.from_numpy(middle(chunk, data.size)(chunk))
            frames = torch.empty(cropped.shape)
            normalise(frames, cropped)
            frames = frames.flatten(1)
            finding.frames += len(frames)
            both = frames if last is None else torch.cat([last, frames])
            change = (both[1:] - both[:-1]).norm(dim=1) / both[1:].norm(dim=1).clamp(min=1e-6)
            finding.change += float(change.sum())
            finding.pairs += len(change)
            last = frames[-1:]
        if not finding.frames:
            finding.reason = "it has no frames"
    except DataError as error:
        finding.reason = str(error).removeprefix(f"{clip.path}: ")
        if finding.frames:
            finding.reason = f"decoding fails after {finding.frames} frames: {finding.reason}"
    if finding.frames and damage.count:
        finding.damage = str(damage)
    return finding


def _describe(finding: FileCheck, clip: Clip, data: Data) -> None:
    """Set the size and rate to what the file states."""
    if clip.item is not None or clip.member is not None:
        return
    file = clip.path if clip.pictures is None else pictures(clip.path, data.frame_files)[0]
    info = read_media_info(file)
    if isinstance(info, MediaInfo):
        finding.size, finding.rate = f"{info.width}x{info.height}", info.rate


def _frequent(values: Iterable[str]) -> dict[str, int]:
    """How many files state each value, the most frequent first."""
    return dict(Counter(filter(None, values)).most_common(_SHOWN))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
