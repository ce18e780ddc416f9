"""Seeking into a file gives the same frames as decoding it from its start."""

import struct
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest

from coordinator.video.decoding import reader, seek
from coordinator.video.decoding.reader import decode, read
from tests.support.videos import spoil, video_stream, write_at, write_moving

REFRESH = {"x264-params": "intra-refresh=1:keyint=60:bframes=0"}
HARD: dict[str, dict[str, Any]] = {
    "b-frames.avi": {"codec": "libx264", "bf": "3", "g": "80"},  # its timestamps are in decoding order
    "b-frames-asp.avi": {"codec": "mpeg4", "bf": "2", "g": "60"},
    "intra-refresh.mp4": {"codec": "libx264", **REFRESH},
    "intra-refresh.mkv": {"codec": "libx264", **REFRESH},
    "intra-refresh.ts": {"codec": "libx264", **REFRESH},
    "hevc-intra-refresh.mp4": {
        "codec": "libx265",
        "x265-params": "log-level=none:intra-refresh=1:keyint=60:bframes=0",
    },
    "open-gop.mp4": {"codec": "libx264", "x264-params": "open-gop=1:keyint=48:bframes=4:b-pyramid=normal:ref=8"},
    "open-gop.ts": {"codec": "libx264", "x264-params": "open-gop=1:keyint=48:bframes=4"},
    "hidden-frames.webm": {"codec": "libvpx", "g": "60", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    "program.mpg": {"codec": "mpeg2video", "bf": "2", "g": "15"},
    "raw.h264": {"codec": "libx264", "bf": "2", "g": "50"},
}
FRAMES = 620


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hard")


@pytest.fixture(params=["near", "film"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Treat files as short enough to decode from their start, or as hours long."""
    if request.param == "film":
        monkeypatch.setattr(seek, "_MAX_DECODE_PIXELS", 0)
    return str(request.param)


def forget() -> None:
    """Clear all caches, as in a new process."""
    for known in (seek._indexed, seek._packet_timestamps, seek._keys):
        known.cache_clear()


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each far skip, whether it seeked to a key frame."""
    taken: list[bool] = []
    jump = seek.jump

    def noted(*arguments: Any) -> object:
        found = jump(*arguments)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(reader, "jump", noted)
    return taken


@pytest.mark.parametrize(("stride", "fps"), [(1, None), (2, None), (1, 20.0)])
@pytest.mark.parametrize("name", HARD)
def test_a_seek_starts_at_the_right_frame(folder: Path, name: str, stride: int, fps: float | None, kind: str) -> None:
    path = folder / name
    if not path.exists():
        write_moving(path, FRAMES, **HARD[name])
    whole = np.concatenate(list(read(path, stride, 32, 1, fps=fps)))
    assert len(whole) in (-(-FRAMES // stride), FRAMES * 20 // 25, FRAMES * 20 // 25 + 1)
    random = Random(name)
    for skip in [*(random.randrange(len(whole)) for _ in range(6)), len(whole) - 3, len(whole)]:
        if kind == "film":
            forget()
        rest = [frame for chunk in read(path, stride, 32, 1, fps=fps, skip=skip, limit=20) for frame in chunk]
        assert len(rest) == len(whole[skip : skip + 20])
        assert not rest or np.array_equal(rest, whole[skip : skip + 20]), f"after {skip} frames"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_only_the_first_skip_decodes_a_file_from_its_start(tmp_path: Path, suffix: str, jumps: list[bool]) -> None:
    path = write_moving(tmp_path / f"x.{suffix}", FRAMES, g="40", bf="0")
    for skip in (400, 350, 300, 600):
        list(read(path, 1, 32, 1, skip=skip, limit=17))
    assert jumps == [False, True, True, True]


def test_every_frame_is_indexed_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second, farther skip starts indexing where the first ended; a third, nearer one indexes nothing."""
    path = write_moving(tmp_path / "x.mp4", FRAMES, g="40")
    noted: list[int] = []
    add = seek.FrameIndex._add

    def counted(record: seek.FrameIndex, frame: av.VideoFrame) -> None:
        noted.append(len(record.times))
        add(record, frame)

    monkeypatch.setattr(seek.FrameIndex, "_add", counted)
    for skip, fps in ((300, None), (500, None), (400, 20.0), (450, None)):
        list(read(path, 1, 32, 1, fps=fps, skip=skip, limit=20))
    assert noted == list(range(len(noted)))
    assert 520 <= len(noted) < FRAMES


def test_a_file_with_lost_packets_is_counted_by_its_frames(tmp_path: Path) -> None:
    """If it can be decoded within half a minute, so that missing packets do not matter."""
    path = spoil(write_moving(tmp_path / "x.mkv", FRAMES, g="20", bf="0"), [150, 203, 204])
    whole = np.concatenate(list(read(path, 1, 32, 1)))
    assert len(whole) < FRAMES
    forget()
    for skip in (len(whole) - 9, len(whole) - 40, 400, len(whole) - 5):
        assert np.array_equal(next(read(path, 1, 32, 1, skip=skip, limit=5)), whole[skip : skip + 5])


def test_skipping_reports_that_it_is_alive(tmp_path: Path) -> None:
    path, calls = write_moving(tmp_path / "x.mp4", FRAMES, g="40"), list[int]()
    next(decode(path, 1, 32, 1, skip=600, alive=lambda: calls.append(0)))
    assert len(calls) == 3


def test_the_first_skip_in_a_long_file_seeks(
    tmp_path: Path, jumps: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seek, "_MAX_DECODE_PIXELS", 0)
    path = write_moving(tmp_path / "x.mp4", FRAMES, g="40")
    list(read(path, 1, 32, 1, skip=600, limit=2))
    assert jumps == [True]


def test_a_rewritten_file_is_indexed_again(tmp_path: Path, jumps: list[bool]) -> None:
    path = write_moving(tmp_path / "x.mp4", FRAMES, g="40")
    for skip in (500, 400):
        list(read(path, 1, 32, 1, skip=skip, limit=17))
    write_moving(path, FRAMES - 1, g="50")
    list(read(path, 1, 32, 1, skip=400, limit=17))
    assert jumps == [False, True, False]


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_skipping_beyond_a_timestamp_jump_gives_the_right_frames(tmp_path: Path, suffix: str) -> None:
    """Two recordings in one file, the second with its own clock, an hour later."""
    path = tmp_path / f"x.{suffix}"
    write_at(path, [*range(0, 1600, 4), *range(360_000, 361_600, 4)])
    whole = np.concatenate(list(read(path, 1, 16, 1, fps=25)))
    assert len(whole) == 800
    for skip in (300, 350, 700, 500, 780, 390):
        rest = np.concatenate(list(read(path, 1, 16, 1, fps=25, skip=skip, limit=20)))
        assert np.array_equal(rest, whole[skip : skip + 20])


def test_a_seek_beyond_damage_counts_only_decodable_frames(tmp_path: Path, jumps: list[bool]) -> None:
    path = spoil(write_moving(tmp_path / "x.mp4", 400, g="1", bf="0"), [100])
    whole = np.concatenate(list(read(path, 1, 32, 1)))
    assert len(whole) == 399
    for skip in (380, 350):
        assert np.array_equal(next(read(path, 1, 32, 1, skip=skip, limit=10)), whole[skip : skip + 10])
    assert jumps == [False, True]


def test_row_padding_does_not_affect_the_frame_index() -> None:
    """Decoders leave arbitrary bytes in the padding."""
    frame = av.VideoFrame(50, 20, "gray")
    plane = frame.planes[0]
    assert plane.line_size > 50
    sums = []
    for padding in (0, 255):
        rows = np.full((plane.height, plane.line_size), padding, np.uint8)
        rows[:, :50] = np.arange(50)
        plane.update(rows.tobytes()[: plane.buffer_size])
        sums.append(seek._checksum(frame))
    assert sums[0] == sums[1]


def test_timestamps_that_do_not_increase_prevent_seeking(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "x.avi", 40, bf="3")
    record = seek.FrameIndex()
    with av.open(str(path)) as container:
        list(islice(record.note(container.decode(video=0), 0, lambda: None), 30))
    assert not record.jumps


def test_a_seek_in_frames_that_are_stored_upside_down(tmp_path: Path, jumps: list[bool]) -> None:
    """As in AVI files of bitmaps."""
    path = tmp_path / "x.avi"
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "rawvideo", 25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr24"
        for number in range(300):
            picture = np.full((24, 32, 3), number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
    data = bytearray(path.read_bytes())
    height = data.find(b"strf") + 16
    data[height : height + 4] = struct.pack("<i", 24)  # that of rows from the first to the last is negative
    path.write_bytes(data)
    for _ in range(2):
        frames = np.concatenate(list(read(path, 1, 24, 3, skip=280)))
        assert frames.mean((1, 2, 3)).round().tolist() == list(range(24, 44))
    assert jumps == [False, True]
