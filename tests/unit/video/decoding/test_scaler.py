"""Converting frames of any format, size and rotation to pixels."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coordinator.video.decoding.reader import read
from coordinator.video.decoding.scaler import Scaler
from tests.support.videos import video_stream, write_clip

MATRICES = {
    "clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "anticlockwise": ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
    "upside down": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_is_applied(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / "x.mp4", 3, size=(48, 32), seed=4)
    upright = next(read(path, 1, 32, 3))[0].transpose(1, 2, 0)
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44  # the track header's matrix: a b u, c d v, x y w
    (a, b, c, d), turned = MATRICES[name]
    data[place : place + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert np.array_equal(next(read(path, 1, 32, 3))[0].transpose(1, 2, 0), turned(upright))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv444p10le", "mkv"),
        ("libx264", "yuvj420p", "mp4"),
        ("libx264", "gray", "mp4"),
        ("libx264", "yuv422p", "mp4"),
        ("ffv1", "bgra", "mkv"),
        ("ffv1", "gray16le", "mkv"),
        ("ffv1", "yuva420p", "mkv"),
        ("qtrle", "argb", "mov"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_unusual_pixel_formats_look_the_same(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str, channels: int
) -> None:
    path = tmp_path / f"x.{suffix}"
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16] = 255
    picture[:, :16] //= 2
    with av.open(str(path), "w") as container:
        stream = video_stream(container, codec, 25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    got = next(read(path, 1, 32, channels))[0].transpose(1, 2, 0).astype(int)
    assert got.shape == (32, 48, channels)
    assert np.abs(got - picture[:, :, :channels])[1:-1, 18:-1].max() <= 12
    assert np.abs(got[2:14, 2:14] - 127).max() <= 12


@given(width=st.integers(16, 100), height=st.integers(16, 60), short_side=st.integers(16, 60), full=st.booleans())
@hypothesis_settings(max_examples=150)
def test_every_pixel_of_every_size_is_converted(width: int, height: int, short_side: int, full: bool) -> None:
    colour = np.array([200, 100, 40], np.uint8)
    frame = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (height, width, 3)).copy(), format="rgb24")
    frame = frame.reformat(format="yuvj444p" if full else "yuv420p")
    for side in (min(width, height), short_side):
        for channel, value in zip(Scaler(frame, side, 3)(frame), colour, strict=True):
            assert np.abs(channel.astype(int) - int(value)).max() <= 8


@pytest.mark.parametrize(
    ("least", "shape"), [((16, 32), (21, 32)), ((40, 20), (40, 60)), ((20, 30), (20, 30)), ((20, 20), (20, 30))]
)
def test_a_frame_covers_a_rectangle(least: tuple[int, int], shape: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((40, 60, 3), np.uint8), format="rgb24")
    assert Scaler(frame, least, 3).shape == Scaler(frame, least, 3)(frame)[0].shape == shape


def test_a_turned_frame_covers_it_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 1, size=(48, 32))
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert next(read(path, 1, (20, 20), 3)).shape == (1, 3, 30, 20)
    assert next(read(path, 1, (30, 30), 3)).shape == next(read(path, 1, 30, 3)).shape == (1, 3, 45, 30)
    assert next(read(path, 1, (20, 30), 3)).shape == (1, 3, 45, 30)
