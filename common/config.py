"""Every setting of a run, validated once: a TOML file, then `--set section.key=value` overrides."""

import difflib
import math
import os
import tomllib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import ConfigError


class Section(BaseModel):
    """Settings are fixed once read, and an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """The video files and how the slots play them."""

    train: Path = Field(description="folder of training clips: root/<class>/<clip>.mp4, .avi, .webm, .mkv, .mov")
    val: Path | None = Field(None, description="folder of validation clips; none: no evaluation")
    train_include: str = Field("*", description="pattern that a training clip's path below the root must match")
    val_include: str = Field("*", description="the same for validation clips")
    slots: int = Field(16, ge=1, le=4096, description="video streams played side by side: the rows of a batch (B)")
    stride: int = Field(1, ge=1, description="every how many-th frame of a clip is played")
    size: int = Field(64, ge=4, le=2048, description="frames are cropped to size × size pixels")
    resize: int | None = Field(None, description="short side before the crop, in pixels; default: size")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB")
    flip: float = Field(0.0, ge=0, le=1, description="probability that a training clip is mirrored")
    mean: float = Field(0.5, description="subtracted from pixels in 0 … 1")
    std: float = Field(0.25, gt=0, description="pixels are divided by it")
    threads: int = Field(2, ge=1, le=64, description="decoding threads")

    @model_validator(mode="after")
    def _resize_covers_the_crop(self) -> "Data":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"data.resize = {self.resize} is smaller than data.size = {self.size}: make it at least as large"
            )
        return self

    @property
    def short_side(self) -> int:
        """Pixels of a frame's short side before the crop."""
        return self.resize or self.size


class Rule(Section):
    """The Sideways rule's choices."""

    boundary: Literal["gate", "mix"] = Field("gate", description="gate: drop gradients of another clip; mix: keep them")
    every: int = Field(1, ge=1, description="ticks per update; the update uses their mean gradient")


class Optimiser(Section):
    """A torch.optim class. No momentum by default: with delayed gradients it costs accuracy (DESIGN, section 1)."""

    name: str = Field("AdamW", description="a class of torch.optim")
    lr: float = Field(1e-3, ge=0, description="learning rate")
    lr_by_mismatch: bool = Field(False, description="divide a stage's rate by 1 + its mismatch in frames")
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="further arguments; Adam and AdamW have betas [0, 0.999] by default",
    )


class Network(Section):
    """How the processes reach each other and how long they wait."""

    deadline: float = Field(60.0, gt=0, le=3600, description="seconds any process waits for another before it gives up")
    overlap: bool = Field(True, description="hide transfers behind compute")
    transport: Literal["auto", "gloo", "nccl"] = Field("auto", description="auto: NCCL if every stage has its own GPU")
    max_message: int = Field(1 << 28, ge=1 << 16, description="bytes of the largest frame batch a stage accepts")


class Report(Section):
    """What the run tells about itself."""

    every: float = Field(0.5, gt=0, le=60, description="seconds between a stage's reports")
    losses: bool = Field(False, description="also write the loss of every single tick into metrics.jsonl")


class Config(Section):
    """A run. `stages` layer groups learn `task` with `model` from `data` for `ticks` ticks or `epochs` epochs."""

    task: Literal["classify", "autoencode"] = Field("classify", description="what is learnt")
    model: str = Field("vgg8", description="vgg8, autoencoder, or path/to/file.py:factory returning an nn.Sequential")
    model_args: dict[str, Any] = Field(default_factory=dict, description="arguments of the model's factory")
    stages: int = Field(4, ge=1, le=256, description="layer groups, each a process (D)")
    split: list[int] | None = Field(None, description="blocks of each stage; default: measured and balanced")
    ticks: int | None = Field(None, ge=1, description="length of the training in ticks")
    epochs: float | None = Field(None, gt=0, description="or in passes over the training clips")
    evaluate_every: int = Field(0, ge=0, description="ticks between evaluations; 0: only at the end")
    seed: int = Field(0, ge=0, lt=1 << 31, description="of weights, order of clips and augmentation")
    runs: Path = Field(Path("runs"), description="folder that holds a folder for every run")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+$", description="the run's folder; default: file and time")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of a stage; 0: its share of the cores")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where the host has it")
    data: Data
    rule: Rule = Rule()
    optimiser: Optimiser = Optimiser()
    network: Network = Network()
    report: Report = Report()

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """[slots, channels, height, width] of a frame batch."""
        return self.data.slots, self.data.channels, self.data.size, self.data.size

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if (self.ticks is None) == (self.epochs is None):
            raise ValueError("give the length of the training: either ticks or epochs, not both")
        if self.split is not None and (len(self.split) != self.stages or min(self.split) < 1):
            raise ValueError(f"split = {self.split} must name at least one block for each of the {self.stages} stages")
        if self.report.every > self.network.deadline:
            raise ValueError("report.every is longer than network.deadline: a silent stage would pass for a dead one")
        batch = math.prod(self.frame_shape)
        if batch > self.network.max_message:
            raise ValueError(
                f"a frame batch of data.slots × data.channels × data.size² = {batch} bytes is larger than "
                f"network.max_message = {self.network.max_message}: make the batch smaller or the limit larger"
            )
        return self


def load(path: Path, overrides: list[str] | None = None) -> Config:
    """Read and validate a run file. Relative paths in it are relative to the working directory.

    Raises:
        ConfigError: naming the key, what is allowed and the nearest valid name.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for override in overrides or []:
        _override(tree, override)
    return parse(tree, str(path))


def parse(tree: dict[str, Any], origin: str) -> Config:
    """Validate a tree of settings that came from `origin`. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(dict(problem))}" for problem in error.errors())) from error


def _override(tree: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value`; the value is TOML, or a plain string where it is none."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is a setting, not a section")
    try:
        tree[name] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        tree[name] = value


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic error as a sentence with a remedy."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key}. {_nearest(location)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"the setting {key} is missing: {_field_help(location)}"
    return f"{key} = {problem['input']!r} is wrong: {message}. {key}: {_field_help(location)}"


def _section_of(location: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Config
    for part in location[:-1]:
        field = section.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return None
        section = field.annotation
    return section


def _nearest(location: list[str]) -> str:
    section = _section_of(location)
    if section is None:
        return ""
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
    prefix = ".".join([*location[:-1], ""])
    hint = f"Did you mean {prefix}{close[0]}? " if close else ""
    return f"{hint}Allowed here: {', '.join(names)}"


def _field_help(location: list[str]) -> str:
    section = _section_of(location)
    field = section.model_fields.get(location[-1]) if section else None
    if field is None:
        return "see the run file's documentation"
    return f"{field.description or ''} ({_type_name(field.annotation)})"


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type_name(choice) for choice in get_args(annotation) if choice is not type(None))
    return getattr(annotation, "__name__", str(annotation))


def share_of_threads(config: Config, processes: int) -> int:
    """CPU threads for each of `processes` stage workers of this host."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // max(1, processes))
