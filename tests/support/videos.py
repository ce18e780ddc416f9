"""Small generated videos, also with the defects of real ones: odd timestamps and damaged packets."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.container
import numpy as np

from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import read


def write_moving(
    path: Path, frames: int, codec: str = "libx264", size: tuple[int, int] = (96, 64), **options: str
) -> Path:
    """Write a textured background that moves 2 pixels per frame, so that frames are predicted from earlier ones."""
    width, height = size
    ground = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    ground = np.kron(ground, np.ones((4, 4, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, 25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = np.roll(ground, 2 * number, axis=1)
            picture[:8, :8] = number % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_at(path: Path, times: Sequence[int], rate: int = 25) -> Path:
    """Write key frames. Frame n has a uniform level of 3 (n mod 70) + 40, and the timestamp times[n] / 100 s."""
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "libx264", rate, options={"crf": "1", "bf": "0", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        packets = []
        for number in range(len(times)):
            picture = np.full((24, 32, 3), 3 * (number % 70) + 40, np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        packets += stream.encode()
        for packet, time in zip(packets, times, strict=True):
            packet.pts = packet.dts = time
            packet.time_base = Fraction(1, 100)
            container.mux_one(packet)
    return path


def restamp(path: Path, times: Sequence[int]) -> Path:
    """Overwrite the block times, in ms, of a one-cluster Matroska file, as PyAV only writes increasing ones."""
    data = bytearray(path.read_bytes())
    place, left = 0, list(times)
    while left and (place := data.find(b"\xa3", place)) >= 0:  # a SimpleBlock: its id, its length, the track 1, a time
        length = next((n for n in range(1, 5) if data[place + 1] >> (8 - n)), 4)
        block = place + 1 + length
        if data[block] == 0x81 and data[block + 3] in (0x00, 0x80):
            data[block + 1 : block + 3] = struct.pack(">h", left.pop(0))
            place = block
        place += 1
    assert not left
    path.write_bytes(data)
    return path


def levels(path: Path, **options: Any) -> list[int]:
    """The numbers of the frames that are read from a file of `write_at`."""
    chunks = [chunk.mean((1, 2, 3)) for chunk in read(path, options.pop("stride", 1), 16, 1, **options)]
    return [round((float(value) - 40) / 3) for chunk in chunks for value in chunk]


def packets_of(path: Path) -> list[tuple[int, int]]:
    """The offset and size of each packet of the first video stream."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    return [(pos, size) for pos, size in packets if pos is not None]


def spoil(path: Path, numbers: Sequence[int]) -> Path:
    """Overwrite packets of a file with random bytes."""
    data = bytearray(path.read_bytes())
    for pos, size in [packets_of(path)[number] for number in numbers]:
        data[pos : pos + size] = np.random.default_rng(pos).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(data)
    return path


def video_stream(container: av.container.OutputContainer, codec: str, rate: int, **options: Any) -> av.VideoStream:
    """Add a video stream."""
    stream = container.add_stream(codec, rate=rate, **options)
    assert isinstance(stream, av.VideoStream)
    return stream


def write_clip(
    path: Path, frames: int, size: tuple[int, int] = (24, 20), seed: int = 0, codec: str = "libx264", rate: int = 25
) -> Path:
    """Write a video of a bright square that moves on a coloured background. `size` is (width, height)."""
    width, height = size
    random = np.random.default_rng(seed)
    ground = random.integers(0, 120, 3)
    x, y, dx, dy = *random.uniform(0, 8, 2), *random.uniform(-1, 1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            picture = np.empty((height, width, 3), np.uint8)
            picture[:] = ground
            left, top = int(x) % (width - 6), int(y) % (height - 6)
            picture[top : top + 6, left : left + 6] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            x, y = x + dx, y + dy
        container.mux(stream.encode())
    return path


def count(path: Path) -> tuple[int, int]:
    """The numbers of frames read and of packets that cannot be decoded."""
    damage = Damage()
    return sum(len(chunk) for chunk in read(path, 1, 32, 3, damage=damage)), damage.count


def write_pictures(folder: Path, name: str, frames: int, level: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, frames + 1):
        with av.open(str(folder / f"{name}{number}.png"), "w", format="image2") as container:
            stream = video_stream(container, "png", 1)
            stream.width, stream.height, stream.pix_fmt = 24, 20, "rgb24"
            picture = np.full((20, 24, 3), level * number, np.uint8)
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()])


def frames_of(path: Path, stride: int = 1, short_side: int = 20, channels: int = 3) -> np.ndarray:
    return np.concatenate(list(read(path, stride, short_side, channels)))
