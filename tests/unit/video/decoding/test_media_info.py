"""Media information: cover images, several video streams, folders of images."""

import struct
import time
from io import BytesIO, RawIOBase
from itertools import chain
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoding.media_info import MediaInfo, read_media_info, read_stream_info
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import collect
from tests.support.videos import count, video_stream, write_clip, write_pictures


def add_cover(container: av.container.OutputContainer) -> None:
    cover = video_stream(container, "mjpeg", 1)
    cover.width, cover.height, cover.pix_fmt = 48, 48, "yuvj420p"
    cover.disposition = av.stream.Disposition.attached_pic
    picture = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 200, np.uint8), format="rgb24")
    container.mux([*cover.encode(picture), *cover.encode()])


def boxes(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The boxes of an mp4 file by name: the offsets of their first byte and of the byte after them."""
    found = {}
    while start < end:
        size, name = struct.unpack(">I4s", data[start : start + 8])
        found[name] = start, start + size
        start += size
    return found


def with_cover_first(path: Path) -> Path:
    """An mp4 file with 20 frames whose first video stream is its cover image, as its box is moved to the front."""
    plain = write_clip(path.with_name("plain.mp4"), 20)
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        film = container.add_stream_from_template(source.streams.video[0])
        add_cover(container)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = film
                container.mux(packet)
    plain.unlink()
    data = path.read_bytes()
    start, end = boxes(data, 0, len(data))[b"moov"]
    inner = boxes(data, start + 8, end)
    order = sorted(inner, key=[b"mvhd", b"udta", b"trak"].index)
    path.write_bytes(data[: start + 8] + b"".join(data[slice(*inner[name])] for name in order) + data[end:])
    return path


def test_a_cover_image_is_not_taken_for_the_video(tmp_path: Path) -> None:
    path = with_cover_first(tmp_path / "x.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic
    assert count(path) == (20, 0)
    info = read_media_info(path)
    assert isinstance(info, MediaInfo)
    assert (info.width, info.height, info.note) == (24, 20, "")


def test_an_audio_file_with_a_cover_has_no_video(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        song = container.add_stream("aac", rate=44100)
        assert isinstance(song, av.AudioStream)
        song.layout = "mono"
        add_cover(container)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux([*song.encode(sound), *song.encode()])
    assert read_media_info(path) == "it has no video stream, only a cover picture"


def test_a_file_with_several_videos_notes_which_is_played(tmp_path: Path) -> None:
    path = tmp_path / "v" / "a" / "x.mkv"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        streams = []
        for width in (32, 64):
            stream = video_stream(container, "libx264", 25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            streams.append(stream)
        for _ in range(9):
            for stream in streams:
                picture = np.full((48, stream.width, 3), 99, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    (note,) = collect(Data(train=tmp_path / "v"), "train").notes
    assert "of its 2 video streams number" in note
    assert str(path) in note
    assert count(path) == (9, 0)


def test_images_of_several_types_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for kind in ("img_", "flow_x_", "flow_y_"):
        write_pictures(tmp_path / "one", kind, 4)
    (tmp_path / "train.txt").write_text("one 4 0\n")
    with pytest.raises(DataError, match=r'3 kinds of names, "flow_x_\*", "flow_y_\*", "img_\*": set data.frame_files'):
        collect(Data(train=tmp_path / "train.txt"), "train")
    assert not collect(Data(train=tmp_path / "train.txt", frame_files="img_*"), "train").notes


def test_more_images_than_listed_are_reported(tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", "img_", 6)
    (tmp_path / "one" / "._img_1.png").write_bytes(b"AppleDouble")
    (tmp_path / "train.txt").write_text("one 4 0\n")
    clips = collect(Data(train=tmp_path / "train.txt"), "train")
    assert clips.clips[0].frames == 4
    assert "it contains 6 frames that match '*'" in clips.notes[0]


def test_the_supported_image_types_are_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "img_1.exr").write_bytes(b"x")
    (tmp_path / "train.txt").write_text("one 4 0\n")
    with pytest.raises(DataError, match=r"with a suffix of \.jpg, \.jpeg, \.png, "):
        collect(Data(train=tmp_path / "train.txt"), "train")


def write_frames(path: Path, frames: int, before: int = 0, **options: str) -> Path:
    """Write frames at 20 a second, of which the first `before` are before the film's beginning."""
    codec = "libvpx" if path.suffix == ".webm" else "libx264"
    with av.open(str(path), "w", options=options) as container:
        stream = video_stream(container, codec, 20, options={"g": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        pictures = (np.full((24, 32, 3), 4 * number, np.uint8) for number in range(frames))
        encoded = [stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")) for picture in pictures]
        for packet in chain(*encoded, stream.encode()):
            assert packet.pts is not None
            assert packet.dts is not None
            shift = round(before / 20 / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "before", "options"),
    [
        ("x.webm", 0, {"live": "1"}),
        ("x.mkv", 0, {"live": "1"}),
        ("x.h264", 0, {}),
        ("fragments.mp4", 0, {"movflags": "frag_keyframe"}),
        ("trimmed.mp4", 40, {"avoid_negative_ts": "disabled"}),
    ],
)
def test_the_frames_of_a_file_that_states_no_length_or_a_wrong_one_are_counted(
    tmp_path: Path, name: str, before: int, options: dict[str, str]
) -> None:
    path = write_frames(tmp_path / name, 60, before, **options)
    info = read_media_info(path)
    assert isinstance(info, MediaInfo)
    assert info.frames == count(path)[0] == 60 - before
    assert info.seconds == pytest.approx(info.frames / info.rate)
    assert info.rate == pytest.approx(20, rel=0.02) or name.endswith("h264")  # which has no times


def test_a_file_cannot_make_ffmpeg_listen_at_an_address(tmp_path: Path) -> None:
    """As a session description does, whatever the file is called: in a folder, or in a shard."""
    text = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    text += b"m=video 45678 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    (tmp_path / "x.mp4").write_bytes(text)
    start = time.monotonic()
    assert isinstance(read_media_info(tmp_path / "x.mp4"), str)
    assert isinstance(read_stream_info(cast(RawIOBase, BytesIO(text))), str)
    assert time.monotonic() - start < 5


def test_a_name_may_look_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "2024-01-01T12:30:05.mp4", 5)
    monkeypatch.chdir(tmp_path)
    assert isinstance(read_media_info(Path("2024-01-01T12:30:05.mp4")), MediaInfo)
    assert sum(map(len, read(Path("2024-01-01T12:30:05.mp4"), 1, 16, 3))) == 5
