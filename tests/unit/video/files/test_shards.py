"""Shards: their clips are those of the files in them, wherever they are, and are resumed in the middle of a shard."""

import io
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.tools.check_data import check
from coordinator.video.cache.key import key_of
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import Clip, collect
from coordinator.video.files.play_order import ShardOrder
from coordinator.video.files.shard_cache import opened_shard
from coordinator.video.files.shard_source import Shard, find_shard
from coordinator.video.files.shards import expand, read_members
from tests.support.processes import environment
from tests.support.settings import config_of
from tests.support.shards import add, served, write_shards
from tests.support.videos import write_clip, write_moving
from tests.support.waiting import wait_until

COUNT, EACH = 7, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """files/ with seven clips and their list, one of them long, and the same in three shards in shards/."""
    root = tmp_path_factory.mktemp("shards")
    files = [write_clip(root / f"files/{n}.mp4", 6 + n, (24, 20), seed=n) for n in range(COUNT - 1)]
    files.append(write_moving(root / "files/long.mp4", 330, size=(32, 24), g="20"))
    (root / "files/list.txt").write_text("".join(f"{path.name} {n % 3}\n" for n, path in enumerate(files)))
    write_shards(root / "shards", [(path, n % 3) for n, path in enumerate(files)], EACH)
    return root


def data_of(train: str | Path, **changes: Any) -> Data:
    return Data(**{"train": train, "slots": 2, "size": 16, "resize": 20, "threads": 1, "flip": 0.5, **changes})


def frames(clip: Clip, data: Data, **part: Any) -> np.ndarray:
    return np.array([scaler(frame) for scaler, frame in decode_clip(clip, data, **part)])


def play(clips: list[Clip], data: Data, places: list[tuple[int, int]], count: int) -> list[Any]:
    """Chunks that two slots play from their places on, with the errors."""
    events: list[Any] = []
    room = np.zeros((5, 3, 16, 16), np.uint8)
    for entry, done in places:
        player = ClipPlayer(Job(clips, data, 3, train=True), lambda *error: events.append(error))
        chunks = islice(player.chunks(entry, done, lambda: room), count)
        events.append([(*chunk, room[: chunk.frames].tobytes()) for chunk in chunks])
    return events


def test_ranges_in_names() -> None:
    assert expand("a/{008..010}.tar") == ["a/008.tar", "a/009.tar", "a/010.tar"]
    assert expand("{1..2}/{0..1}.tar") == ["1/0.tar", "1/1.tar", "2/0.tar", "2/1.tar"]
    assert expand("plain.tar") == ["plain.tar"]


def test_clips_are_those_of_the_files_however_shards_are_named(root: Path) -> None:
    data = data_of(root / "files/list.txt", stride=2)
    files = collect(data, "train")
    (root / "shards.txt").write_text("shards/000.tar\nshards/{001..002}.tar\n")
    for source in (root / "shards", root / "shards/{000..002}.tar", root / "shards.txt"):
        clips = collect(data_of(source, stride=2), "train")
        assert clips.classes == ["0", "1", "2"]
        assert [(clip.label, clip.frames) for clip in clips.clips] == [(c.label, c.frames) for c in files.clips]
        for clip, file in zip(clips.clips, files.clips, strict=True):
            for skip in (0, 3, 140):  # the last is jumped to in the long file
                assert np.array_equal(frames(clip, data, skip=skip), frames(file, data, skip=skip))
    assert len({key_of(clip, data) for clip in clips.clips} - {None}) == COUNT
    (survey,) = check(config_of(root, data__train=str(root / "shards")))
    assert [finding.frames for finding in survey.findings] == [6, 7, 8, 9, 10, 11, 330]


def test_slots_play_and_resume_shards_as_they_do_files(root: Path) -> None:
    data = data_of(root / "files/list.txt", window=9)
    clips = collect(data_of(root / "shards"), "train").clips
    whole = play(clips, data, [(0, 0), (1, 0)], 14)
    assert whole == play(collect(data, "train").clips, data, [(0, 0), (1, 0)], 14)
    places = [(slot[5][0], slot[5][2]) for slot in whole]
    assert play(clips, data, places, 9) == [slot[5:] for slot in whole]


def test_remote_shards_are_downloaded_once_and_their_contents_remembered(root: Path, tmp_path: Path) -> None:
    with served(root / "shards") as (address, asked):
        data = data_of(f"{address}/{{000..002}}.tar", shard_cache=tmp_path)
        clips = collect(data, "train").clips
        expected = collect(data_of(root / "files/list.txt"), "train").clips
        for clip, file in zip(clips, expected, strict=True):
            assert clip.label == file.label
            assert np.array_equal(frames(clip, data), frames(file, data))
        assert sorted(asked) == ["/000.tar", "/001.tar", "/002.tar"]
        for copy in tmp_path.glob("*.tar"):
            copy.unlink()
        assert collect(data, "train").clips == clips
        assert len(asked) == 3, "its contents are known without it"
        with ThreadPoolExecutor(3) as pool:
            assert len({found.tobytes() for found in pool.map(lambda _: frames(clips[0], data), range(3))}) == 1
        assert asked[3:] == ["/000.tar"]


def test_a_cache_too_small_keeps_the_newest_and_changes_the_order_only(root: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in sorted((root / "shards").iterdir())]
    with served(root / "shards") as (address, asked):
        limit = sum(sizes) - 1
        data = data_of(f"{address}/{{000..002}}.tar", shard_cache=tmp_path, shard_cache_size=limit)
        clips = collect(data, "train").clips
        order = Job(clips, data, 0, train=True).order()
        assert isinstance(order, ShardOrder)
        for epoch in range(3):
            played = [order.entry(COUNT * epoch + number) for number in range(COUNT)]
            assert sorted(clips.index(clip) for clip in played if clip) == list(range(COUNT))
            shards = [clip.member.shard.address for clip in played if clip and clip.member]
            groups = [shard for shard, before in zip(shards, [None, *shards], strict=False) if shard != before]
            assert len(groups) <= 5
            asked.clear()
            for clip in played:
                assert clip is not None
                assert len(frames(clip, data)) == clip.frames
                assert sum(copy.stat().st_size for copy in tmp_path.glob("*.tar")) <= limit
            assert len(asked) <= 3
        data = data_of(f"{address}/000.tar", shard_cache=tmp_path / "new", shard_cache_size=1000)
        with pytest.raises(DataError, match=r"more than data.shard_cache_size = 1000: raise that"):
            collect(data, "train")


def test_a_copy_for_which_no_room_can_be_made_leaves_no_file_open(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(folder: Path, size: int, own: Path) -> None:
        if own.suffix == ".tar":
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("coordinator.video.files.shard_cache._make_room", failing)
    with served(root / "shards") as (address, _):
        data = data_of(f"{address}/000.tar", shard_cache=tmp_path)
        shard = find_shard(f"{address}/000.tar", data)
        with pytest.raises(DataError, match="Operation not permitted"), opened_shard(shard, data):
            pass
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in opened if name.startswith(str(tmp_path))]


def cut(shard: Path, to: Path, size: int) -> Path:
    to.write_bytes(shard.read_bytes()[:size])
    return to


def test_a_shard_that_is_cut_short_is_played_up_to_there_and_named(root: Path, tmp_path: Path) -> None:
    shard = root / "shards/001.tar"
    with tarfile.open(shard) as tar:
        third = next(member for member in tar if member.name == "0005.mp4")
    for number, size in enumerate((third.offset_data + 9, third.offset, third.offset + 100)):
        broken = cut(shard, tmp_path / f"{number}.tar", size)
        clips = collect(data_of(broken), "train")
        assert len(clips.clips) == 2
        assert clips.bad == {broken: "it is cut short: the 2 clips before that are played; copy it again"}
    cut(shard, tmp_path / "none.tar", 300)
    with pytest.raises(DataError, match=r"none of the 1 videos.*none.tar: it is not an uncompressed tar file.*copy it"):
        collect(data_of(tmp_path / "none.tar"), "train")
    for task in ("regress", "multilabel"):
        with pytest.raises(DataError, match=r"none of the 1 videos.*none.tar: it is not an uncompressed tar file"):
            collect(data_of(tmp_path / "none.tar"), "train", task=task)


def test_a_member_of_a_negative_size_is_reported() -> None:
    """tarfile itself would go back by as much, or raise ValueError."""
    good, bad = tarfile.TarInfo("0.mp4"), tarfile.TarInfo("1.mp4")
    bad.size = -(1 << 40)
    content = good.tobuf() + bad.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    shard = Shard("a.tar", len(content), "")
    found = read_members(shard, io.BytesIO(content), len(content), lambda offset, size: "unread", {".mp4"})
    assert [sample.name for sample in found.samples] == ["0.mp4"]
    assert found.failure.startswith("it is damaged (1.mp4 has a negative size): the 1 clips before that are played")


def test_a_download_that_ends_early_is_tried_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import SimpleHTTPRequestHandler

    monkeypatch.setattr("coordinator.video.files.shard_source._PAUSES", (0.01, 0.01))
    failures = iter([True, True, False, True, True, True])
    original = SimpleHTTPRequestHandler.copyfile

    def copyfile(self: Any, source: Any, target: Any) -> None:
        if next(failures):
            target.write(source.read(1000))
            self.close_connection = True
        else:
            original(self, source, target)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", copyfile)
    with served(root / "shards") as (address, asked):
        data = data_of(f"{address}/000.tar", shard_cache=tmp_path)
        assert len(collect(data, "train").clips) == EACH
        assert len(asked) == 3
        data = data_of(f"{address}/001.tar", shard_cache=tmp_path)
        with pytest.raises(DataError, match=r"001.tar cannot be downloaded: .*"):
            collect(data, "train")
        with pytest.raises(DataError, match=r"009.tar cannot be read: FileNotFoundError"):
            collect(data_of(f"{address}/009.tar", shard_cache=tmp_path), "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.cls", None, 'it has no label: neither .cls nor "label" in .json'),
        ("0.json", b'{"other": 1}', "it has no label"),
        ("0.json", b'{"label": true}', r"its .json is no label: \"label\" is True, but must be"),
        ("0.json", b"{", "its .json is no label: Expecting"),
        ("0.json", b"[" * 5000, "its .json is no label: maximum recursion depth"),
        ("0.json", b'{"label": [1]}', r"0.mp4: its label is \[1\], but must be the number or the name of one class"),
    ],
)
def test_a_clip_without_a_label_is_left_out_with_a_reason(
    root: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(root / "files/1.mp4", "0.mp4")
        if content is not None:
            add(tar, name, content)
        tar.add(root / "files/2.mp4", "folder/1.MP4")
        add(tar, "folder/1.cls", b"walk")
        add(tar, "folder/2.mp4", b"no video")
        add(tar, "folder/2.cls", b"run")
    clips = collect(data_of(tmp_path / "a.tar"), "train")
    assert [clip.path for clip in clips.clips] == [tmp_path / "a.tar/folder/1.MP4"]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(clips.bad[tmp_path / "a.tar/0.mp4"])
    assert "Invalid data" in clips.bad[tmp_path / "a.tar/folder/2.mp4"]


def test_what_is_no_shard_at_an_address_is_refused() -> None:
    with pytest.raises(DataError, match=r"only shards, with the suffix .tar, are read from an address"):
        collect(data_of("s3://bucket/videos"), "train")


def test_a_list_of_shards_names_those_below_its_folder_only(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("../shards/000.tar\n")
    with pytest.raises(DataError, match=r"lists ../shards/000.tar, which is outside of"):
        collect(data_of(tmp_path / "list.txt"), "train")
    for wrong in ("{3..1}.tar", "{0..999999999}.tar"):
        with pytest.raises(DataError, match="a range must go from a number to a larger one"):
            collect(data_of(tmp_path / wrong), "train")
    with pytest.raises(DataError, match=r"the shard .*gone.tar cannot be read: FileNotFoundError"):
        collect(data_of(tmp_path / "gone.tar"), "train")


def test_a_shard_that_changes_during_the_run_is_named(root: Path, tmp_path: Path) -> None:
    shard = cut(root / "shards/000.tar", tmp_path / "a.tar", 1 << 30)
    (clip, *_) = collect(data_of(shard), "train").clips
    cut(shard, shard, 9000)
    with pytest.raises(DataError, match=r"a.tar has changed since the run began"):
        frames(clip, data_of(shard))


def test_a_copy_can_be_read_after_it_was_removed(root: Path, tmp_path: Path) -> None:
    with served(root / "shards") as (address, _):
        data = data_of(f"{address}/000.tar", shard_cache=tmp_path)
        (clip, *_) = collect(data, "train").clips
        reading = decode_clip(clip, data)
        next(reading)
        for copy in tmp_path.glob("*.tar"):
            copy.unlink()
        assert 1 + sum(1 for _ in reading) == clip.frames
        shard = find_shard(f"{address}/000.tar", data)
        with opened_shard(shard, data):
            assert [copy.name for copy in tmp_path.glob("*.tar")] == [f"{shard.digest}.tar"]


S3 = """
import sys
from pathlib import Path
from common.config.settings import Data
from coordinator.video.files.clip_frames import decode_clip
from coordinator.video.files.clips import collect
data = Data(train="s3://clips/{000..002}.tar", size=16, shard_cache=Path(sys.argv[1]),
    shard_options={"endpoint_url": sys.argv[2], "key": "k", "secret": "s", "skip_instance_cache": True})
print([(clip.label, sum(1 for _ in decode_clip(clip, data))) for clip in collect(data, "train").clips])
"""


@pytest.mark.long
def test_shards_are_read_from_s3(root: Path, tmp_path: Path) -> None:
    """Of a server of moto's."""
    boto3 = pytest.importorskip("boto3")
    command = [sys.executable, "-m", "moto.server", "-p", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if "Running on" in line)
        address = line.split()[-1]
        client = boto3.client("s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s")
        wait_until(lambda: bool(client.list_buckets()), 30)
        client.create_bucket(Bucket="clips")
        for shard in sorted((root / "shards").iterdir()):
            client.upload_file(str(shard), "clips", shard.name)
        command = [sys.executable, "-c", S3, str(tmp_path), address]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
        assert found.returncode == 0, found.stderr
        expected = [(number % 3, length) for number, length in enumerate([6, 7, 8, 9, 10, 11, 330])]
        assert found.stdout.splitlines()[-1] == str(expected)
    finally:
        server.kill()
        server.wait()


def test_absolute_names_in_different_shards_are_different_clips(tmp_path: Path) -> None:
    """As `tar -P` writes them."""
    for number in range(2):
        clip = write_clip(tmp_path / f"clip{number}.mp4", 10 + number)
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            add(archive, "/d/1.mp4", clip.read_bytes())
            add(archive, "/d/1.cls", str(number).encode())
    clips = collect(data_of(f"{tmp_path}/{{0..1}}.tar"), "train").clips
    assert [(clip.label, clip.frames) for clip in clips] == [(0, 10), (1, 11)]


def test_shards_that_are_downloaded_together_may_exceed_the_cache(root: Path, tmp_path: Path) -> None:
    """A copy may be removed for another one as soon as it is written."""
    limit = 2 * max(path.stat().st_size for path in (root / "shards").iterdir())
    with served(root / "shards") as (address, _):
        for number in range(20):
            where = {"shard_cache": tmp_path / str(number), "shard_cache_size": limit}
            clips = collect(data_of(f"{address}/{{000..002}}.tar", **where), "train")
            assert (len(clips.clips), clips.bad) == (COUNT, {})
