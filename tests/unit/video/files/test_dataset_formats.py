"""Data sets in every format of docs/data.md, and errors in them."""

import csv
import os
import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

import common.torchvision_import  # noqa: F401  makes torchvision importable
from common.config.run_file import parse
from common.config.settings import Data
from common.errors import ConfigError, DataError
from coordinator.video.batch import Batch
from coordinator.video.datasets import Datasets
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.frame_folder import pictures
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import Clip, Clips, collect
from coordinator.video.files.dataset_formats import guess, in_quarantine, listing, quarantined
from coordinator.video.slots import Slots
from tests.support.processes import sideways
from tests.support.videos import video_stream, write_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("video") / "x.avi", 6, codec="mpeg4")


def put(video: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, path)


def entries(clips: Clips) -> list[tuple[str, str]]:
    return [(clip.path.name, class_of(clip, clips)) for clip in clips.clips]


def class_of(clip: Clip, clips: Clips) -> str:
    assert isinstance(clip.label, int)
    return clips.classes[clip.label]


def write_frames(folder: Path, frames: int, suffix: str = "png", first: int = 1) -> None:
    """Numbered pictures without leading zeros; frame n has brightness 10 n."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + frames):
        with av.open(str(folder / f"img_{number}.{suffix}"), "w", format="image2") as container:
            stream = video_stream(container, "png" if suffix == "png" else "mjpeg", 1)
            stream.width, stream.height = 24, 20
            stream.pix_fmt = "rgb24" if suffix == "png" else "yuvj420p"
            picture = np.full((20, 24, 3), 10 * number, np.uint8)
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()])


def test_a_list_with_names(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "v" / "a b.avi", tmp_path / "v" / "deep" / "c.avi")
    (tmp_path / "train.txt").write_text(f"v/a b.avi walk\n\ndeep.avi run\n{tmp_path / 'v/deep/c.avi'}\trun\n")
    clips = collect(Data(train=tmp_path / "train.txt"), "train")
    assert entries(clips) == [("a b.avi", "walk"), ("c.avi", "run")]
    assert clips.classes == ["run", "walk"]
    assert clips.bad == {tmp_path / "deep.avi": "No such file or directory"}


def test_a_list_with_numbers_and_a_folder_of_videos(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "v" / "a.avi", tmp_path / "v" / "b.avi")
    (tmp_path / "train.txt").write_text("a.avi 2\nb.avi 0\n")
    (tmp_path / "val.txt").write_text("b.avi 01\n")
    data = Data(train=tmp_path / "train.txt", val=tmp_path / "val.txt", videos=tmp_path / "v")
    train = collect(data, "train")
    assert (entries(train), train.classes) == ([("a.avi", "2"), ("b.avi", "0")], ["0", "1", "2"])
    assert entries(collect(data, "val", classes=train.classes)) == [("b.avi", "1")]
    assert any("no readable clip" in text and "1" in text for text in train.warnings(0))


def test_a_list_without_labels_is_enough_for_autoencoding(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a b.avi", tmp_path / "c.avi")
    (tmp_path / "all.txt").write_text("a b.avi\nc.avi 3\n")
    clips = collect(Data(train=tmp_path / "all.txt"), "train", labelled=False)
    assert entries(clips) == [("a b.avi", "video"), ("c.avi", "video")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.avi\n", "line 1: 'a.avi' is not `path label`"),
        ("a.avi 100000\n", "the label 100000 is too large"),
        ("gone.avi 0\n", "none of the 1 videos"),
        ("a\0.avi 0\n", "is not a list: it is not UTF-8 text"),
        ("\n", "is empty: it needs a line `path label`"),
        ("path label\na.avi 0\n", "line 1: 'path label' is not a video: if it is a header, remove it"),
        ("a.avi 0\na.avi -1\n", "line 2: -1 is not a label"),
        (f"{'a' * 5000} 0\n", "is not a video"),
        (f"a.avi {'9' * 5000}\n", "is too large: numeric labels"),
    ],
)
def test_a_wrong_list_is_an_error(tmp_path: Path, video: Path, text: str, message: str) -> None:
    put(video, tmp_path / "a.avi")
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        collect(Data(train=tmp_path / "train.txt"), "train")


def test_a_file_that_is_no_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (("a.txt", "not UTF-8"), ("gone.txt", "cannot read the list")):
        with pytest.raises(DataError, match=message):
            collect(Data(train=tmp_path / name), "train")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_folders_of_frames(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / "one", 12, suffix)
    write_frames(tmp_path / "two", 3, suffix)
    (tmp_path / "train.txt").write_text("one 11 walk\ntwo 5 run\n")
    data = Data(train=tmp_path / "train.txt", stride=2, slots=1, size=20)
    clips = collect(data, "train")
    assert [(clip.frames, clip.pictures) for clip in clips.clips] == [(6, 11)]
    assert "it contains 3 frames" in clips.bad[tmp_path / "two"]
    slots, batch, seen = Slots(Job(clips.clips, data, 0, train=False)), Batch((1, 3, 20, 20)), []
    while slots.fill(batch):
        seen.append(float(batch.frames.mean()))
    slots.close()
    assert np.allclose(seen, [10, 30, 50, 70, 90, 110], atol=2)  # by number, not by name; no more than are listed
    assert not collect(data, "train", labelled=False).clips[0].label


def test_frames_are_picked_by_pattern_and_have_no_frame_rate(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", 4)
    (tmp_path / "one" / "flow_1.png").write_bytes(b"")
    (tmp_path / "train.txt").write_text("one 4 0\n")
    assert len(pictures(tmp_path / "one")) == 5
    assert len(collect(Data(train=tmp_path / "train.txt", frame_files="img_*"), "train").clips) == 1
    with pytest.raises(DataError, match=r"use data\.stride"):
        collect(Data(train=tmp_path / "train.txt", fps=5), "train")


@pytest.fixture
def ucf(tmp_path: Path, video: Path) -> Path:
    names = {
        "train": ["Archery/v_Archery_g08_c01.avi", "Biking/v_Biking_g08_c01.avi"],
        "test": ["Archery/v_Archery_g01_c01.avi"],
    }
    put(video, *[tmp_path / "videos" / name for part in names.values() for name in part])
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "classInd.txt").write_text("1 Archery\r\n2 Biking\r\n")
    for fold in (1, 2):
        lines = [f"{name} {number}" for number, name in enumerate(names["train"], 1)][: 3 - fold]
        (splits / f"trainlist0{fold}.txt").write_text("\r\n".join(lines) + "\r\n")
        (splits / f"testlist0{fold}.txt").write_text("\n".join(names["test"]) + "\n")
    return tmp_path


def test_ucf101(ucf: Path) -> None:
    from torchvision.datasets import UCF101

    for fold in (1, 2):
        data = Data(train=ucf / "splits", val=ucf / "splits", videos=ucf / "videos", fold=fold)
        train = collect(data, "train")
        assert train.classes == ["Archery", "Biking"]
        val = collect(data, "val", classes=train.classes)
        files = sorted(str(path) for path in (ucf / "videos").rglob("*.avi"))
        for clips, is_train in ((train, True), (val, False)):
            root = SimpleNamespace(root=str(ucf / "videos"))
            chosen = UCF101._select_fold(root, files, str(ucf / "splits"), fold, is_train)
            assert sorted(str(clip.path) for clip in clips.clips) == [files[number] for number in chosen]
            assert all(class_of(clip, clips) == clip.path.parent.name for clip in clips.clips)
    given = Data(train=ucf / "splits" / "trainlist02.txt", videos=ucf / "videos")
    assert len(collect(given, "train").clips) == 1
    with pytest.raises(DataError, match="trainlist09"):
        collect(Data(train=ucf / "splits", videos=ucf / "videos", fold=9), "train")


def test_hmdb51(tmp_path: Path, video: Path) -> None:
    from torchvision.datasets import HMDB51

    tags = {"a.avi": 1, "b#1&2.avi": 2, "c.avi": 0, "d.avi": 1}
    put(video, *[tmp_path / "videos" / "brush_hair" / name for name in tags], tmp_path / "videos" / "run" / "e.avi")
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "brush_hair_test_split1.txt").write_text("".join(f"{name} {tag} \n" for name, tag in tags.items()))
    (splits / "run_test_split1.txt").write_text("e.avi 1 \ngone.avi 1 \n")
    data = Data(train=splits, val=splits, videos=tmp_path / "videos")
    train = collect(data, "train")
    files = sorted(str(path) for path in (tmp_path / "videos").rglob("*.avi"))
    for clips, is_train in ((train, True), (collect(data, "val", classes=train.classes), False)):
        chosen = HMDB51._select_fold(SimpleNamespace(TRAIN_TAG=1, TEST_TAG=2), files, str(splits), 1, is_train)
        assert sorted(str(clip.path) for clip in clips.clips) == [files[number] for number in chosen]
    assert train.classes == ["brush_hair", "run"]
    assert [path.name for path in train.bad] == ["gone.avi"]
    with pytest.raises(DataError, match=r"data\.fold = 3"):
        collect(Data(train=splits, videos=tmp_path / "videos", fold=3), "train")


def write_csv(path: Path, rows: list[tuple[str, str, int, int, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
        writer.writerows(rows)
    return path


def test_kinetics(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "v" / "playing_guitar" / "-ab_1_000003_000013.mp4", tmp_path / "v" / "x_000120_000130.mp4")
    rows = [
        ("playing guitar", "-ab_1", 3, 13, "train"),
        ("abseiling, fast", "x", 120, 130, "train"),
        ("abseiling, fast", "gone", 0, 10, "train"),
    ]
    file = write_csv(tmp_path / "train.csv", rows)
    clips = collect(Data(train=file, videos=tmp_path / "v"), "train")
    assert sorted(clip.path.name for clip in clips.clips) == ["-ab_1_000003_000013.mp4", "x_000120_000130.mp4"]
    assert clips.classes == ["abseiling, fast", "playing guitar"]
    assert [path.name for path in clips.bad] == ["gone_000000_000010.mp4"]


def test_kinetics_in_one_file_or_without_labels(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a_000000_000010.mp4", tmp_path / "b_000000_000010.mp4")
    file = write_csv(tmp_path / "all.csv", [("run", "a", 0, 10, "train"), ("run", "b", 0, 10, "validate")])
    data = Data(train=file, val=file)
    assert [entries(collect(data, part))[0][0][0] for part in ("train", "val")] == ["a", "b"]
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\na,0,10,test\n")
    assert len(collect(Data(train=tmp_path / "test.csv"), "train", labelled=False).clips) == 1
    with pytest.raises(DataError, match="lacks the columns label"):
        collect(Data(train=tmp_path / "test.csv"), "train")
    (tmp_path / "bad.csv").write_text("label,youtube_id,time_start,time_end,split\nx,a,zero,10,test\n")
    with pytest.raises(DataError, match="row 2: time_start and time_end are not whole seconds"):
        collect(Data(train=tmp_path / "bad.csv"), "train")


def test_the_format_is_detected_from_the_files(ucf: Path) -> None:
    assert guess(ucf / "splits") == guess(ucf / "splits" / "trainlist01.txt") == "ucf101"
    assert guess(ucf / "videos") == "folders"
    for name, line, kind in (("x.csv", "label,youtube_id", "kinetics"), ("y.csv", "path,label", "table")):
        (ucf / name).write_text(line)
        assert guess(ucf / name) == kind


@pytest.mark.parametrize(
    "text",
    [
        'path,label\nv/ü b.avi,geh weg\n"v/c, d.avi",run\n',
        '\ufeff,Nr;label;path\n1;geh weg;v/ü b.avi\n2;run;"v/c, d.avi"\n',  # as a German spreadsheet writes it
    ],
)
def test_a_table_with_a_header(tmp_path: Path, video: Path, text: str) -> None:
    put(video, tmp_path / "v" / "ü b.avi", tmp_path / "v" / "c, d.avi")
    (tmp_path / "train.csv").write_text(text)
    clips = collect(Data(train=tmp_path / "train.csv"), "train")
    assert entries(clips) == [("ü b.avi", "geh weg"), ("c, d.avi", "run")]
    assert entries(collect(Data(train=tmp_path / "train.csv"), "train", labelled=False))[0] == ("ü b.avi", "video")
    (tmp_path / "train.csv").write_text("path\nv/ü b.avi\n")
    assert entries(collect(Data(train=tmp_path / "train.csv"), "train", labelled=False)) == [("ü b.avi", "video")]


def test_a_table_of_segments_and_of_both_parts(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a.avi")
    (tmp_path / "all.csv").write_text("path,start,end,label,split\na.avi,0,3,1,train\na.avi,3,5,0,test\n")
    data = Data(train=tmp_path / "all.csv", val=tmp_path / "all.csv", segment_unit="frames")
    train = collect(data, "train")
    assert [(clip.first, clip.frames) for clip in train.clips] == [(0, 3)]
    assert [(clip.first, clip.frames) for clip in collect(data, "val", classes=train.classes).clips] == [(3, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na.avi,x\n", "the header path,class lacks label: name the columns path,label"),
        ("path,start,label\na.avi,0,x\n", "lacks end"),
        ("path,label\n,x\n", "line 2: the path is empty"),
        ("path,label\na.avi,\n", "line 2: a.avi has no label"),
        ("path,label\na.avi,-1\n", "line 2: -1 is not a label"),
        ("path,label\na.avi\n", "line 2: 1 values, but the header has 2 columns"),
        ('path,label\n"a.avi,x\n', "quotation mark left open"),
        ("path,label\n", "is empty"),
        ("path,label\n../a.avi,x\n", r"outside of .*: set data\.videos"),
        ("path,label\na.avi,r\udcfcck\n", "line 2: this is not UTF-8 text: save the file as UTF-8"),
        ("path,label\n\udcfc.avi,x\n", "line 2: this is not UTF-8 text"),
        ("a.avi,x\n", "A list of your own begins with `path,label`"),
    ],
)
def test_a_wrong_table_is_an_error(tmp_path: Path, video: Path, text: str, message: str) -> None:
    put(video, tmp_path / "a.avi")
    (tmp_path / "train.csv").write_bytes(os.fsencode(text))
    with pytest.raises(DataError, match=message):
        collect(Data(train=tmp_path / "train.csv"), "train")


def test_a_table_is_no_list_of_lines(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("path,label\na.avi,x\n")
    with pytest.raises(DataError, match=r'has the header of a table: set data\.format = "table"'):
        collect(Data(train=tmp_path / "train.csv", format="list"), "train")


@pytest.mark.parametrize("name", ["s3://b/000.tar/0001.mp4", "https://h:80/x/000.tar/1.mp4", "v/1.avi", "/v/12:30.mp4"])
def test_what_is_quarantined_is_known_by_its_path_or_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An address is the same from any working directory."""
    (tmp_path / "bad.txt").write_text(f"{in_quarantine(Path(name))}\n")
    (tmp_path / "written").write_text(f"{name}\n")
    assert quarantined(tmp_path / "written") == {in_quarantine(Path(name))}
    monkeypatch.chdir(tmp_path)
    (found,) = quarantined(tmp_path / "bad.txt")
    assert (found == in_quarantine(Path(name))) is (name != "v/1.avi")


def test_quarantined_files_are_skipped(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "v" / "a" / "1.avi", tmp_path / "v" / "a" / "2.avi")
    (tmp_path / "bad.txt").write_text(f"{tmp_path / 'v/a/2.avi'}\n/somewhere/else.avi\n")
    clips = collect(Data(train=tmp_path / "v", quarantine=tmp_path / "bad.txt"), "train")
    assert ([clip.path.name for clip in clips.clips], clips.quarantined) == (["1.avi"], 1)
    assert any("quarantine" in text for text in clips.warnings(0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "data.train is missing"),
        ({"train": "v", "sources": ["x"]}, "exclude each other"),
        ({"sources": ["a", "b"], "slots": 1}, "data.sources names 2 sources"),
        ({"train": "v", "loop": True}, "data.loop needs data.sources"),
        ({"sources": ["a"], "stride": 2}, "are for files"),
        ({"train": "v", "fps": 5, "stride": 2}, "data.stride and data.fps"),
        ({"sources": ["a"], "loop": True, "window": 3}, "data.window and data.loop"),
        ({"train": "v", "scale": [0.5, 0.1]}, "data.scale"),
        ({"train": "v", "ratio": [2, 1]}, "data.ratio"),
        ({"train": "v", "channels": 1, "hue": 0.1}, "need colour"),
        ({"train": "v", "channels": 1, "mean": "imagenet"}, "data.mean has 3 values, but data.channels = 1"),
        ({"train": "v", "std": [0.2, 0.2, 0]}, "data.std"),
    ],
)
def test_contradictory_data_settings_are_an_error(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"ticks": 1, "data": data}, "test")


def test_sources_have_no_labels() -> None:
    with pytest.raises(ConfigError, match="no labels"):
        collect(Data(sources=["x"]), "train")


def test_an_image_too_large_to_decode_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", 1)
    file = tmp_path / "one" / "img_1.png"
    data = bytearray(file.read_bytes())
    data[16:24] = (9000).to_bytes(4, "big") * 2  # the size in the header, and its checksum
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    file.write_bytes(data)
    (tmp_path / "train.txt").write_text("one 1 0\n")
    with pytest.raises(DataError, match="more than 67108864 pixels"):
        collect(Data(train=tmp_path / "train.txt"), "train")
    with pytest.raises(DataError, match="Invalid"):
        list(read(tmp_path / "one", 1, 16, 3, frame_files=[file]))


@pytest.mark.parametrize("path", ["../other/a.mp4", "/etc/passwd", "x/../../a.mp4"])
def test_a_list_cannot_name_files_outside_its_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "list.txt").write_text(f"{path} 0\n")
    data = Data(train=tmp_path / "videos" / "list.txt", format="list")
    with pytest.raises(DataError, match=r"outside of .*: set data\.videos"):
        listing(data, "train", True)
    assert listing(data.model_copy(update={"videos": Path("/")}), "train", True).entries


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/b", "", "mein lauf"])
def test_a_runs_name_must_be_a_folder_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a run: letters without accents, digits"):
        parse({"name": name}, "test")


# ---- which files are accepted


def test_hidden_and_system_files_are_skipped(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a" / "1.avi", tmp_path / "b" / "deep" / "2.avi")
    left = (".ipynb_checkpoints/x.avi", ".Trash-1000/x.avi", "__MACOSX/a/x.avi", "a/._1.avi", "$RECYCLE.BIN/x.avi")
    put(video, *(tmp_path / name for name in left))
    (tmp_path / ".DS_Store").write_bytes(b"x")
    clips = collect(Data(train=tmp_path), "train")
    assert entries(clips) == [("1.avi", "a"), ("2.avi", "b")]
    assert clips.classes == ["a", "b"]
    assert clips.warnings(0) == [
        f"only one clip in {tmp_path} for a, b: the model can hardly learn such a class",
    ]


@pytest.mark.parametrize("suffix", ["m4v", "mpg", "ts", "flv", "3gp", "mts", "mov", "MP4", "wmv", "gif"])
def test_every_type_that_pyav_reads_is_accepted(tmp_path: Path, suffix: str) -> None:
    codec = {"mpg": "mpeg2video", "flv": "flv", "wmv": "wmv2", "gif": "gif"}.get(suffix, "libx264")
    path = tmp_path / "a" / f"x.{suffix}"
    path.parent.mkdir()
    with av.open(str(path), "w", format="3gp" if suffix == "3gp" else None) as container:
        stream = video_stream(container, codec, 25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb8" if codec == "gif" else "yuv420p"
        for _ in range(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    clips = collect(Data(train=tmp_path), "train")
    assert [clip.path for clip in clips.clips] == [path]
    assert sum(len(chunk) for chunk in read(path, 1, 32, 3)) == 9


def test_a_training_folder_one_too_high_is_asked_about(tmp_path: Path, video: Path) -> None:
    put(video, *[tmp_path / part / name / "1.avi" for part in ("train", "val") for name in ("left", "right")])
    clips = collect(Data(train=tmp_path), "train")
    question = "is data.train one folder too high? Set it to the folder train in there"
    assert clips.notes == [f"the classes in {tmp_path} are named train, val: {question}"]
    with pytest.raises(DataError) as raised:
        collect(Data(train=tmp_path, val=tmp_path / "val"), "val", classes=clips.classes)
    assert str(raised.value).endswith(f"lack: left, right. Those have train, val: {question}")
    put(video, tmp_path / "val" / "up" / "1.avi")
    with pytest.raises(DataError, match=r"lack: up. Those have left, right: name the classes alike"):
        collect(Data(train=tmp_path / "train", val=tmp_path / "val"), "val", classes=["left", "right"])


def test_files_of_other_kinds_are_counted(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a" / "1.avi", tmp_path / "a" / "2.avi", tmp_path / "loose.avi")
    put(video, tmp_path / "b" / "1.braw", tmp_path / "b" / "2.braw", tmp_path / "a" / "notes.txt", tmp_path / "README")
    assert collect(Data(train=tmp_path), "train").notes == [
        f"4 files in {tmp_path} do not have the suffix of a video and are left out: 2 .braw, 1 without suffix, 1 .txt",
        f"1 videos are in {tmp_path} itself, not in a class folder, and are left out",
        f"no video in the folders b of {tmp_path}: they are not classes",
    ]
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(DataError, match=r"2 \.braw"):
        collect(Data(train=tmp_path), "train")


def test_a_table_that_is_no_kinetics_list_is_an_error(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a.avi")
    (tmp_path / "train.csv").write_text("a.avi 0\n")
    with pytest.raises(
        DataError, match=r"line 1: 'a\.avi 0' is not the header of a Kinetics list.* data\.format = \"list\""
    ):
        collect(Data(train=tmp_path / "train.csv"), "train")
    assert len(collect(Data(train=tmp_path / "train.csv", format="list"), "train").clips) == 1
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        collect(Data(train=tmp_path / "train.csv"), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,youtube_id,time_start,time_end\nwalk,a,0\n", "row 2: .* are not whole seconds.*is the row too short"),
        ("youtube_id,time_start,time_end,label\na,0,1\n", "row 2: it has no label: is the row too short"),
        ('label,youtube_id,time_start,time_end\nwalk,"a,0,1\n' + "walk,b,0,1\n" * 20_000, "quotation mark left open"),
    ],
)
def test_a_truncated_table_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        collect(Data(train=tmp_path / "train.csv"), "train")


def test_only_regular_files_are_taken_for_frames(tmp_path: Path) -> None:
    """Opening a named pipe in a folder of frames would block forever."""
    write_frames(tmp_path / "one", 4)
    os.mkfifo(tmp_path / "one" / "img_0.png")
    (tmp_path / "one" / "img_5.png").mkdir()
    (tmp_path / "train.txt").write_text("one 4 0\n")
    clips = collect(Data(train=tmp_path / "train.txt"), "train")
    assert (clips.clips[0].frames, clips.notes) == (4, [])
    assert [file.name for file in pictures(tmp_path / "one")] == [f"img_{number}.png" for number in range(1, 5)]
    (tmp_path / "train.txt").write_text(f"one {'9' * 5000} 0\n")
    with pytest.raises(DataError, match="is not `folder total_frames label`"):
        collect(Data(train=tmp_path / "train.txt", format="frames"), "train")


def test_a_list_in_utf_16_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.avi 0\n", encoding="utf-16")
    with pytest.raises(DataError, match="save it as UTF-8"):
        collect(Data(train=tmp_path / "train.txt"), "train")


def test_a_clip_with_two_labels_keeps_the_first_with_a_note(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "a.avi", tmp_path / "b.avi")
    (tmp_path / "train.txt").write_text("a.avi 0\nb.avi 1\na.avi 1\n")
    assert collect(Data(train=tmp_path / "train.txt"), "train").notes == [
        f"1 lines of {tmp_path / 'train.txt'} repeat a clip with a different label, the first: a.avi"
    ]


def test_clips_in_both_training_and_validation_give_a_warning(tmp_path: Path, video: Path) -> None:
    put(video, tmp_path / "t" / "a" / "1.avi", tmp_path / "t" / "b" / "1.avi", tmp_path / "v" / "b" / "2.avi")
    (tmp_path / "v" / "a").mkdir()
    (tmp_path / "v" / "a" / "link.avi").symlink_to(tmp_path / "t" / "a" / "1.avi")
    warnings: list[str] = []
    tree = {"ticks": 1, "data": {"train": str(tmp_path / "t"), "val": str(tmp_path / "v")}}
    Datasets(parse(tree, "test"), warnings.append, lambda: None)
    assert f"1 of 2 clips of {tmp_path / 'v'} are also training clips: their score is too optimistic" in warnings


def test_file_names_may_be_no_utf_8(tmp_path: Path, video: Path) -> None:
    """They are found, listed, quarantined and skipped like others."""
    odd = os.fsdecode(b"caf\xe9")
    put(video, tmp_path / odd / "1.avi", tmp_path / "b" / "1.avi")
    (tmp_path / odd / "bad\udcff.avi").write_bytes(b"nothing")
    done = sideways("check", tmp_path, "--size", "16", "--quarantine", tmp_path / "bad.txt", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bad.txt").read_bytes() == os.fsencode(tmp_path / odd / "bad\udcff.avi") + b"\n"
    assert collect(Data(train=tmp_path, quarantine=tmp_path / "bad.txt"), "train").quarantined == 1
    (tmp_path / "train.txt").write_bytes(b"caf\xe9/1.avi 0\n")
    assert len(collect(Data(train=tmp_path / "train.txt"), "train").clips) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_file_names_may_hold_what_unicode_takes_for_the_end_of_a_line(tmp_path: Path, video: Path, end: str) -> None:
    odd = [f"a{character}b.avi" for character in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    put(video, *(tmp_path / name for name in odd))
    for file, lines in (
        ("list.txt", [f"{name} x" for name in odd]),
        ("table.csv", ["path,label", *(f"{name},x" for name in odd)]),
    ):
        (tmp_path / file).write_bytes(f"{end.join(lines)}{end}\x0c{end}".encode())
        assert [clip.path.name for clip in collect(Data(train=tmp_path / file), "train").clips] == odd
    (tmp_path / "bad.txt").write_bytes(end.join(str(tmp_path / name) for name in odd[1:]).encode())
    left = collect(Data(train=tmp_path / "list.txt", quarantine=tmp_path / "bad.txt"), "train")
    assert [clip.path.name for clip in left.clips] == odd[:1]


def test_a_list_cannot_name_parts_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's protocol for them would be taken from the beginning of a relative path."""
    write_clip(tmp_path / "other.mp4", 5)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "list.txt").write_text(f"subfile,,start,0,end,100000,,:{tmp_path}/other.mp4 0\n")
    monkeypatch.chdir(tmp_path / "videos")
    with pytest.raises(DataError, match=r"outside of .*: set data\.videos"):
        collect(Data(train=Path("list.txt"), format="list"), "train")
