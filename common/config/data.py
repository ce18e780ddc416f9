"""The settings of the videos, and how the slots play them."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, model_validator

from common.config.section import Section

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # as torchvision's weights expect


def _as_size(value: object) -> object:
    """One side, or two that differ. Raises ValueError for anything else: pydantic would explain each alternative."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if not all(type(side) is int and 4 <= side <= 2048 for side in sides):
        raise ValueError(
            f"data.size = {value!r} must be the side of a square, or [height, width], in pixels, each from 4 to 2048"
        )
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else value


Size = Annotated[int | tuple[int, int], BeforeValidator(_as_size)]


def source_of(text: str | Path) -> Path | str:
    """A path; or an address such as s3://…, which remains text, as a path would lose a slash."""
    return str(text) if "://" in str(text) else Path(text)


Source = Annotated[str | Path, AfterValidator(source_of)]
Format = Literal["auto", "folders", "list", "table", "segments", "frames", "ucf101", "hmdb51", "kinetics", "shards"]


OWN_DATASET = re.compile(r".+\.py:[^\W\d]\w*")  # data.train: path/to/file.py:name
MEMORY = "memory"  # data.cache: memory that the decoder processes share, rather than a folder


class Data(Section):
    """The videos and how the slots play them."""

    train: Source | None = Field(
        None,
        description="training clips: a folder root/<class>/<clip>, a list of clips, an official split, shards such as "
        "s3://bucket/{000..009}.tar, or path/to/file.py:name, a dataset of your own",
    )
    val: Source | None = Field(
        None, description="validation clips, in the same formats as train; default: no evaluation"
    )
    train_include: str = Field("*", description="glob pattern that a training clip's path below the root must match")
    val_include: str = Field("*", description="glob pattern that a validation clip's path below the root must match")
    format: Format = Field("auto", description="format of train and val (docs/data.md); auto: detected")
    videos: Path | None = Field(
        None, description="folder that listed paths are relative to and must lie in; default: the list's folder"
    )
    segment_unit: Literal["seconds", "frames"] = Field(
        "seconds", description="unit of start and end in lists of segments"
    )
    shard_cache: Path | None = Field(
        None,
        description="folder for local copies of remote shards, which runs may share; "
        "default: sideways in $XDG_CACHE_HOME, or in ~/.cache",
    )
    shard_cache_size: ByteSize = Field(ByteSize(64 << 30), ge=1, description="size limit of that folder")
    shard_options: dict[str, Any] = Field(
        default_factory=dict, description="arguments of fsspec's file system of the shards, such as { anon = true }"
    )
    fold: int = Field(1, ge=1, le=99, description="number of the official split of ucf101 or hmdb51")
    labels_of: Literal["clips", "frames"] = Field(
        "clips", description="frames: each frame has its own label, or none (docs/data.md)"
    )
    train_labels: Path | None = Field(
        None,
        description="labels of the training clips: a CSV file, for frames also a folder of one for each clip "
        "(docs/data.md); default: those of the data set, for frames CSV files beside the clips",
    )
    val_labels: Path | None = Field(None, description="labels of the validation clips, likewise")
    frame_files: str = Field("*", description="glob pattern of the file names in folders of frames, such as img_*")
    quarantine: Path | None = Field(None, description="list of files to leave out, from `sideways check --quarantine`")
    sources: list[str] = Field([], description="live sources instead of train, such as rtsp://…, /dev/video0, http://…")
    source_format: str | None = Field(None, description="FFmpeg format of the sources, such as v4l2; default: detected")
    source_options: dict[str, str] = Field(
        default_factory=dict, description='FFmpeg options of the sources, such as { rtsp_transport = "tcp" }'
    )
    source_timeout: float = Field(5.0, gt=0, le=600, description="seconds without a frame before reconnecting a source")
    loop: bool = Field(False, description="treat the sources as long files: play every frame, in an endless loop")
    slots: int = Field(16, ge=1, le=4096, description="number of video streams played in parallel: the batch size (B)")
    stride: int = Field(1, ge=1, description="play every stride-th frame of a clip")
    fps: float | None = Field(
        None, gt=0, le=1000, description="frames per second to play instead of stride, by the files' timestamps"
    )
    balance: bool = Field(
        False, description="play clips of every class equally often, however many it has; an epoch has as many clips"
    )
    window: int | None = Field(
        None, ge=1, description="length in frames of the random window played of a training clip; default: all"
    )
    snippets: int = Field(
        1,
        ge=1,
        le=1000,
        description="windows of each clip that are played one after another, each from one of as many equal parts of "
        "the clip; evaluation plays the middle of each",
    )
    size: Size = Field(
        64, description="frames are cropped to size × size pixels, or, if size = [height, width], to height × width"
    )
    resize: int | None = Field(
        None,
        le=8192,
        description="short side before the crop, in pixels; default: size. If size = [height, width]: short side of a "
        "rectangle of that shape, which frames are resized to cover",
    )
    channels: Literal[1, 3] = Field(3, description="1: greyscale, 3: RGB")
    bits: Literal[8, 16] = Field(
        8,
        description="bits of a pixel: 16 keeps grey pictures of more than 8 bits, such as depth or infra-red, as they "
        "are; needs channels = 1",
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability that a training clip is flipped horizontally")
    flip_targets: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        description="which numbers, counted from 0, change sign when their clip is flipped, such as x, measured from "
        'the middle of the frame; [] for none. Required by task = "regress" with flip',
    )
    scale: tuple[float, float] | None = Field(
        None,
        description="random resized crop: smallest and largest fraction of the area; default: a crop of size × size",
    )
    ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="smallest and largest width / height of that crop, relative to those of size"
    )
    brightness: float = Field(0.0, ge=0, le=1, description="maximum brightness jitter: a random factor in 1 ± this")
    contrast: float = Field(0.0, ge=0, le=1, description="maximum contrast jitter: a random factor in 1 ± this")
    saturation: float = Field(0.0, ge=0, le=1, description="maximum saturation jitter: a random factor in 1 ± this")
    hue: float = Field(0.0, ge=0, le=0.5, description="maximum hue jitter, as a fraction of the colour circle")
    jitter: Literal["auto", "decoders", "stages"] = Field(
        "auto",
        description="what jitters colours: the decoders on the CPU, or the first stage on its device; auto: the stage, "
        "if all stages have GPUs, frames have 8 bits and the task has labels",
    )
    mean: float | list[float] | Literal["imagenet"] = Field(
        0.5, description="subtracted from pixel values, which are in 0 … 1: a number, one for each channel, or imagenet"
    )
    std: float | list[float] | Literal["imagenet"] = Field(
        0.25, description="pixel values are divided by this after subtracting the mean; likewise"
    )
    threads: int = Field(2, ge=1, le=64, description="files decoded at the same time, by up to twice as many processes")
    readers: int = Field(
        0,
        ge=0,
        le=256,
        description="processes that read the training videos and feed the replicas, in place of the coordinator; each "
        "feeds as many replicas, with data.threads of its own (docs/scaling.md)",
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description='where decoded frames are kept for later epochs: "memory", or a folder that runs may share',
    )
    cache_size: ByteSize = Field(
        ByteSize(4 << 30), ge=1 << 20, description='size limit of that memory or folder: bytes, or text such as "8 GiB"'
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "Data":
        if self.train is None and not self.sources:
            raise ValueError(
                "data.train is missing: set it to a folder or list of videos, or data.sources to live sources"
            )
        if self.train is not None and self.sources:
            raise ValueError("data.train and data.sources exclude each other: set one of them only")
        if len(self.sources) > self.slots:
            raise ValueError(
                f"data.sources names {len(self.sources)} sources, but data.slots = {self.slots}: "
                f"a slot plays one source, so raise data.slots"
            )
        if self.loop and not self.sources:
            raise ValueError('data.loop needs data.sources, such as sources = ["long.mp4"]')
        if self.live and self.cache:
            raise ValueError("data.cache is for files, which are played again: leave it out with live sources")
        if self.live and self.readers:
            raise ValueError("data.readers are for files: live sources are read by the coordinator, so leave it out")
        if self.live and (self.stride > 1 or self.fps or self.window):
            raise ValueError("data.stride, data.fps and data.window are for files: leave them out with live sources")
        return self

    @model_validator(mode="after")
    def _sampling(self) -> "Data":
        if self.resize is not None and self.resize < min(self.shape):
            raise ValueError(
                f"data.resize = {self.resize} is smaller than data.size = {min(self.shape)}: make it at least as large"
            )
        if self.fps is not None and self.stride > 1:
            raise ValueError("data.stride and data.fps exclude each other: leave data.stride out")
        if self.balance and (self.live or self.loop):
            raise ValueError("data.balance is for files with labels: leave it out with data.sources")
        if self.snippets > 1 and self.window is None:
            raise ValueError("data.snippets needs data.window, their length in frames")
        if self.loop and self.window:
            raise ValueError("data.window and data.loop exclude each other: a loop plays every frame")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(
                f"data.scale = {list(self.scale)} must be [smallest, largest] with 0 < smallest ≤ largest ≤ 1"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"data.ratio = {list(self.ratio)} must be [smallest, largest], both above 0")
        if self.channels == 1 and (self.saturation or self.hue):
            raise ValueError("data.saturation and data.hue need colour: leave them out, or set data.channels = 3")
        if self.bits == 16 and self.channels == 3:
            raise ValueError("data.bits = 16 is for grey frames: set data.channels to 1, or data.bits to 8")
        return self

    @model_validator(mode="after")
    def _statistics(self) -> "Data":
        for name, value in zip(("mean", "std"), self.normalisation, strict=True):
            values = value if isinstance(value, list) else [value] * self.channels
            if len(values) != self.channels:
                raise ValueError(
                    f"data.{name} has {len(values)} values, but data.channels = {self.channels}: give one number, or "
                    f"one for each channel"
                )
            if name == "std" and min(values) <= 0:
                raise ValueError(f"data.std = {self.std} must be above 0")
        return self

    @property
    def normalisation(self) -> tuple[float | list[float], float | list[float]]:
        """The mean and the standard deviation, of all channels or of each."""
        mean, std = self.mean, self.std
        return IMAGENET_MEAN if mean == "imagenet" else mean, IMAGENET_STD if std == "imagenet" else std

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def pixel_type(self) -> Literal["uint8", "uint16"]:
        """The type of the pixels before they are normalised."""
        return "uint8" if self.bits == 8 else "uint16"

    @property
    def short_side(self) -> int | tuple[int, int]:
        """Length of a frame's short side before the crop, in pixels; if `size` is not a square, the height and width of
        the rectangle that frames are resized to cover: `size`, or larger by `resize`.
        """
        height, width = self.shape
        short = self.resize or min(height, width)
        return short if isinstance(self.size, int) else (_scaled(height, short, width), _scaled(width, short, height))

    @property
    def own(self) -> bool:
        """Whether a dataset of the user's own is read."""
        return any(OWN_DATASET.fullmatch(str(source)) for source in (self.train, self.val))

    @property
    def computes(self) -> bool:
        """Whether augmentation computes new pixel values, rather than only cropping and flipping."""
        return self.scale is not None or (self._jitters and not self.jittered_later)

    @property
    def jittered_later(self) -> bool:
        """Whether colours are jittered by the first stage. `auto` is replaced before anything is decoded."""
        return self._jitters and self.jitter == "stages"

    @property
    def _jitters(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def live(self) -> bool:
        """Whether frames come from live sources, which do not wait for the pipeline."""
        return bool(self.sources) and not self.loop


def _scaled(side: int, short: int, other: int) -> int:
    """A rectangle's side once its short side is `short`."""
    return round(side * short / min(side, other))
