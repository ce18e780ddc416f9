"""Files with damage, covers, several films: training, check, eval and predict see what a player shows."""

import json
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.tools.check_data import check, figures, quarantine, settings
from coordinator.video.decoding.media_info import MediaInfo, read_media_info
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import collect
from coordinator.video.slots import Slots
from coordinator.video.targets import Batch
from tests.support.processes import sideways
from tests.support.videos import spoil, video_stream, write_clip, write_moving


def count(path: Path) -> tuple[int, int]:
    """Frames that are read, and packets that cannot be decoded."""
    damage = Damage()
    return sum(len(chunk) for chunk in read(path, 1, 32, 3, damage=damage)), damage.count


def test_one_damaged_packet_costs_one_frame(tmp_path: Path) -> None:
    assert count(spoil(write_moving(tmp_path / "x.mp4", 100, g="1", bf="0"), [10])) == (99, 1)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_film_goes_on_after_a_damaged_middle(tmp_path: Path, codec: str) -> None:
    options = {"g": "25", "x265-params": "log-level=none"} if codec == "libx265" else {"g": "25"}
    path = write_moving(tmp_path / "x.mp4", 200, codec, (96, 64), **options)
    data = bytearray(path.read_bytes())
    media = data.index(b"mdat") + 4
    middle = media + (len(data) - media) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).integers(0, 256, 3000, np.uint8).tobytes()
    path.write_bytes(data)
    frames, _ = count(path)
    assert 150 < frames <= 200


def test_everybody_sees_the_same_frames_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "v" / "a" / "x.mp4"
    path.parent.mkdir(parents=True)
    spoil(write_moving(path, 60, g="1", bf="0"), [7, 30])
    config = settings(tmp_path / "v", ["data.size=16", "data.slots=1"])
    survey = check(config)[0]
    assert figures(survey, config)["frames"] == 58
    assert not survey.bad
    assert survey.damaged[path].startswith("2 of its packets or pictures cannot be decoded")
    assert quarantine([survey], tmp_path / "bad.txt") == 0
    slots, batch, played = Slots(survey.clips.clips, config.data, 0, train=False), Batch(config.frame_shape), 0
    while slots.fill(batch.frames, batch.clips, batch.labels):
        played += 1
    slots.close()
    assert played == 58
    assert (slots.errors.damaged, slots.errors.broken) == (1, 0)
    assert "2 of its packets" in slots.errors.reasons[0]


def test_check_tells_of_damage_and_takes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "v" / "a" / "x.mp4"
    path.parent.mkdir(parents=True)
    spoil(write_moving(path, 30, g="1", bf="0"), [7])
    done = sideways("check", tmp_path / "v", "--size", "16", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"damaged: {path}: 1 of its packets" in done.stdout
    last = json.loads(done.stdout.splitlines()[-1])["parts"][0]
    assert (last["frames"], last["damaged_files"], last["bad_files"]) == (29, 1, 0)


def test_the_frames_before_a_break_are_all_there(tmp_path: Path) -> None:
    """A chunk that is not full when the file breaks off is read too."""
    path = write_moving(tmp_path / "x.y4m", 30, "rawvideo")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"x" * (len(data) - len(data) // 2))
    frames: list[object] = []
    with pytest.raises(DataError, match="Invalid data"):
        frames.extend(frame for chunk in read(path, 1, 32, 1) for frame in chunk)
    assert len(frames) in (14, 15)


# ---- which stream


def add_cover(container: av.container.OutputContainer) -> None:
    cover = video_stream(container, "mjpeg", 1)
    cover.width, cover.height, cover.pix_fmt = 48, 48, "yuvj420p"
    cover.disposition = av.stream.Disposition.attached_pic
    picture = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 200, np.uint8), format="rgb24")
    container.mux([*cover.encode(picture), *cover.encode()])


def boxes(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """The boxes of an mp4 file: of each name the first byte and the byte behind."""
    found = {}
    while start < end:
        size, name = struct.unpack(">I4s", data[start : start + 8])
        found[name] = start, start + size
        start += size
    return found


def with_cover_first(path: Path) -> Path:
    """An mp4 of 20 frames whose first video stream is its cover: its box is moved before the film's."""
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


def test_a_cover_is_no_film(tmp_path: Path) -> None:
    path = with_cover_first(tmp_path / "x.mp4")
    with av.open(str(path)) as container:
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic
    assert count(path) == (20, 0)
    said = read_media_info(path)
    assert isinstance(said, MediaInfo)
    assert (said.width, said.height, said.note) == (24, 20, "")


def test_a_song_with_a_cover_is_told_from_a_film(tmp_path: Path) -> None:
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


def test_which_of_several_films_is_played_is_said(tmp_path: Path) -> None:
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


# ---- folders of frames


def write_pictures(folder: Path, name: str, frames: int, level: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, frames + 1):
        with av.open(str(folder / f"{name}{number}.png"), "w", format="image2") as container:
            stream = video_stream(container, "png", 1)
            stream.width, stream.height, stream.pix_fmt = 24, 20, "rgb24"
            picture = np.full((20, 24, 3), level * number, np.uint8)
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()])


def test_a_broken_picture_is_replaced_by_the_one_before_and_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, "img_", 9)
    for number in (1, 4, 5):
        (tmp_path / f"img_{number}.png").write_bytes(b"nothing")
    files = [tmp_path / f"img_{number}.png" for number in range(1, 10)]
    for skip in range(9):
        damage = Damage()
        seen = [
            round(float(frame.mean())) // 10
            for chunk in read(tmp_path, 1, 20, 1, frame_files=files, skip=skip, damage=damage)
            for frame in chunk
        ]
        assert seen == [2, 2, 3, 3, 3, 6, 7, 8, 9][skip:]
        assert damage.first.startswith("img_1.png: ")


def test_pictures_of_several_kinds_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for kind in ("img_", "flow_x_", "flow_y_"):
        write_pictures(tmp_path / "one", kind, 4)
    (tmp_path / "train.txt").write_text("one 4 0\n")
    with pytest.raises(DataError, match=r'3 kinds of names, "flow_x_\*", "flow_y_\*", "img_\*": set data.frame_files'):
        collect(Data(train=tmp_path / "train.txt"), "train")
    assert not collect(Data(train=tmp_path / "train.txt", frame_files="img_*"), "train").notes


def test_more_pictures_than_the_list_says_are_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "one", "img_", 6)
    (tmp_path / "one" / "._img_1.png").write_bytes(b"AppleDouble")
    (tmp_path / "train.txt").write_text("one 4 0\n")
    clips = collect(Data(train=tmp_path / "train.txt"), "train")
    assert clips.clips[0].frames == 4
    assert "it holds 6 frames that match '*'" in clips.notes[0]


def test_the_endings_of_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "img_1.exr").write_bytes(b"x")
    (tmp_path / "train.txt").write_text("one 4 0\n")
    with pytest.raises(DataError, match=r"with an ending of \.jpg, \.jpeg, \.png, "):
        collect(Data(train=tmp_path / "train.txt"), "train")
