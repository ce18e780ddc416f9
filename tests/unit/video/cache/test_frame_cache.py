"""Frames with a cache equal those without one, whatever is cached, broken, full or killed."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil
import pytest

from common.config.settings import Data
from common.errors import ConfigError
from coordinator.video.batch import Batch
from coordinator.video.cache.entry import PAGE, Draft
from coordinator.video.cache.folder_store import remove_stale_drafts
from coordinator.video.cache.frame_cache import FrameCache
from coordinator.video.cache.key import key_of
from coordinator.video.cache.place import CachePlace, place_of
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.decoding import reader
from coordinator.video.files.clips import Clip, find
from coordinator.video.slots import Slots
from tests.support.sampling import AUGMENTED
from tests.support.videos import spoil, write_clip, write_moving, write_pictures

WAYS: dict[str, dict[str, Any]] = {
    "whole": {"flip": 0.5, "resize": 20},
    "grey": {"channels": 1},
    "window": {"window": 11, "flip": 0.5},
    "stride": {"stride": 3},
    "rate": {"fps": 60.0},
    "augmented": {**AUGMENTED, "window": 9},
}
KINDS = ["memory", "folder"]
Played = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Whole clips, a folder of frames, a damaged, a truncated and an unreadable file, and one shorter than it says."""
    root = tmp_path_factory.mktemp("clips")
    whole = [Clip(write_clip(root / f"{n}.mp4", n, (40, 30), seed=n), n % 3, n) for n in (1, 12, 30)]
    damaged = spoil(write_moving(root / "damaged.mkv", 30, "mpeg4"), [9, 10])
    truncated = write_clip(root / "truncated.avi", 120, (64, 48), codec="mpeg4")
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    (root / "bad.mp4").write_bytes(b"nothing")
    short = write_clip(root / "short.mp4", 5, (32, 48))
    write_pictures(root / "pictures", "img_", 8)
    others = [Clip(damaged, 0, 30), Clip(truncated, 1, 120), Clip(root / "bad.mp4", 0, 9), Clip(short, 2, 25)]
    return [*whole, *others, Clip(root / "pictures", 1, 8, 8)]


def data_of(**changes: Any) -> Data:
    return Data(**{"train": Path(), "slots": 2, "size": 16, "threads": 1, **changes})


def place(kind: str, folder: Path, size: str = "100 MiB") -> CachePlace:
    found = place_of(data_of(cache="memory" if kind == "memory" else str(folder / "cache"), cache_size=size))
    assert found is not None
    return found


def play(job: Job, chunks: int, places: list[tuple[int, int]] | None = None) -> Played:
    """Chunks of every slot, one after the other, with the errors, by one player."""
    events: Played = []
    data = job.data
    room = np.zeros((7, data.channels, *data.shape), np.uint8)
    player = ClipPlayer(job, lambda *error: events.append(error), notify=lambda text: events.append(("notice", text)))
    for entry, done in places or [(0, 0), (1, 0)]:
        for _, chunk in zip(range(chunks), player.chunks(entry, done, lambda: room), strict=False):
            events.append((*chunk, room[: chunk.frames].tobytes()))
    return events


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    original = reader.decode

    def noted(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path)
        return original(path, *args, **options)

    monkeypatch.setattr("coordinator.video.files.clip_frames.decode", noted)
    return opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_frames_and_errors_are_those_without_a_cache(
    clips: list[Clip], tmp_path: Path, kind: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it fills, from a full one by another player, and from the middle of an entry; damage is counted alike."""
    if way == "rate":
        clips = clips[:-1]  # folders of frames have no rate
    data, cache = data_of(**WAYS[way]), place(kind, tmp_path)
    plain, cached = Job(clips, data, 5, True, 6), Job(clips, data, 5, True, 6, cache=cache)
    expected = play(plain, 40)
    assert {event[0] for event in expected if isinstance(event[0], str)} >= {"short", "skipped"}
    assert play(cached, 40) == expected
    opened = count_decoding(monkeypatch)
    assert play(cached, 40) == expected
    assert {path.name for path in opened} <= {"damaged.mkv", "truncated.avi", "bad.mp4", "short.mp4"}
    for places in ([(4, 0), (5, 3)], [(6, 8), (3, 1)]):
        assert play(cached, 12, places) == play(plain, 12, places)
    evaluation = Job(clips, data, 5, False, cache=cache)
    assert play(evaluation, 99) == play(Job(clips, data, 5, False), 99)
    cache.close()


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)


def spoil_the_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[44] ^= 1
    path.write_bytes(data)


FAULTS: dict[str, Callable[[Path], object]] = {
    "frames": flip_a_byte,
    "header": spoil_the_header,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "only the beginning": lambda path: os.truncate(path, 20),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_entry_is_noticed_and_written_again(
    clips: list[Clip], tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = place("folder", tmp_path)
    job = Job(clips[2:3], data_of(), 0, True, cache=cache)
    expected = play(job, 12)
    (entry,) = (tmp_path / "cache").glob("??/*.frames")
    whole = entry.read_bytes()
    FAULTS[fault](entry)
    opened = count_decoding(monkeypatch)
    assert play(job, 12) == expected
    assert opened == [clips[2].path]
    assert entry.read_bytes() == whole


def test_an_entry_that_is_removed_while_it_is_played_stays_readable(clips: list[Clip], tmp_path: Path) -> None:
    job = Job(clips[2:3], data_of(), 0, False, cache=place("folder", tmp_path))
    expected = play(job, 12)
    room = np.zeros((7, 3, 16, 16), np.uint8)
    chunks = ClipPlayer(job, lambda *_: None).chunks(0, 0, lambda: room)
    seen = [(*next(chunks), room.tobytes())]
    next((tmp_path / "cache").glob("??/*.frames")).unlink()
    seen += [(*chunk, room[: chunk.frames].tobytes()) for chunk in chunks]
    assert seen == expected


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4", 12, seed=1)
    job = Job([Clip(path, 0, 12)], data_of(), 0, False, cache=place("folder", tmp_path))
    before = play(job, 9)
    write_clip(path, 12, seed=2)
    os.utime(path, (1, 1))
    assert play(job, 9) == play(Job(job.clips, job.data, 0, False), 9) != before


def test_the_key_holds_every_setting_that_changes_frames_before_the_crop(clips: list[Clip]) -> None:
    changes: list[dict[str, Any]] = [{}, {"stride": 2}, {"fps": 5.0}, {"resize": 17}, {"size": 17}, {"channels": 1}]
    keys = [key_of(clips[1], data_of(**change)) for change in changes]
    assert len(set(keys)) == len(keys) - 1  # resize and size give the same short side
    assert keys[0] == key_of(clips[1], data_of(**AUGMENTED, window=3, slots=9))
    assert key_of(Clip(Path("gone.mp4"), 0, 1), data_of()) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_cache_keeps_what_fits_and_says_so_once(tmp_path: Path, kind: str) -> None:
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 12, (64, 64), seed=n), 0, 12) for n in range(12)]
    data, cache = data_of(size=64), place(kind, tmp_path, "1 MiB")  # an entry takes 144 KiB
    job = Job(clips, data, 0, True, cache=cache)
    events = play(job, 24)
    notices = [event[1] for event in events if event[0] == "notice"]
    assert len(notices) == 1
    assert "data.cache_size" in notices[0]
    assert [event for event in events if event[0] != "notice"] == play(Job(clips, data, 0, True), 24)
    if kind == "memory":
        assert 600_000 < os.fstat(cache.file).st_blocks * 512 <= 1 << 20
        cache.close()
    else:
        sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.frames")]
        assert 600_000 < sum(sizes) <= 1 << 20
        assert not list((tmp_path / "cache/drafts").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_clips_that_begin_at_the_same_time_are_kept_as_far_as_all_of_them_fit(tmp_path: Path, kind: str) -> None:
    """Else they fill the cache together, and none of them is kept."""
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 1, (64, 64), seed=n), 0, 24) for n in range(9)]
    data, found = data_of(size=64), place(kind, tmp_path, "1 MiB")
    notices: list[str] = []
    cache = FrameCache(found.open(), data, notices.append)
    keys = [key_of(clip, data) or b"" for clip in clips]
    recordings = [recording for key in keys if (recording := cache.begin(key, 24 * 3 * 64 * 64))]  # 288 KiB each
    for _ in range(24):
        for recording in recordings:
            recording.write(np.zeros((1, 3, 64, 64), np.uint8))
    for recording in recordings:
        recording.end(whole=True)
    assert len(recordings) == len([clip for clip in clips if cache.find(clip)]) == 3
    assert len(notices) == 1
    found.close()


def test_drafts_are_not_taken_for_stale_ones(tmp_path: Path) -> None:
    """By another run that starts or ends at that moment."""
    store, ended = place("folder", tmp_path).open(), Event()

    def clean() -> None:
        while not ended.is_set():
            remove_stale_drafts(tmp_path / "cache")

    with ThreadPoolExecutor(1) as pool:
        cleaning = pool.submit(clean)
        for number in range(300):
            draft = store.begin(number.to_bytes(32), 300)
            assert draft is not None
            draft.write(np.zeros((1, 3, 10, 10), np.uint8))
            draft.commit()
        ended.set()
        cleaning.result(10)
    assert len(list((tmp_path / "cache").glob("??/*.frames"))) == 300


def test_files_of_the_user_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    own = [tmp_path / "cache" / name for name in ("drafts/letter.txt", "video/clip.frames", "ab/clip.frames")]
    for path in own:
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(1 << 20))
        os.utime(path, (1, 1))
    stale = tmp_path / "cache/drafts/x.draft"
    stale.write_text("")
    found = place("folder", tmp_path, "1 MiB")
    found.open().begin(bytes(32), 900)
    found.tidy()
    assert [path for path in own if not path.exists()] == []
    assert not stale.exists()


def test_verifying_a_large_entry_shows_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place("folder", tmp_path).open()
    draft = store.begin(bytes(32), 900)
    assert draft is not None
    draft.write(np.arange(900, dtype=np.uint8).reshape(3, 3, 10, 10))
    draft.commit()
    monkeypatch.setattr("coordinator.video.cache.entry._READ", 1)
    calls: list[None] = []
    stored = store.load(bytes(32))
    assert stored is not None
    assert stored.is_intact(lambda: calls.append(None))
    assert len(calls) == 3


def test_a_file_that_is_replaced_while_it_is_decoded_is_not_kept_under_the_new_ones_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "x.mp4", 12, seed=1)
    job = Job([Clip(path, 0, 12)], data_of(), 0, False, cache=place("folder", tmp_path))
    original = reader.decode

    def replace_after_opening(path: Path, *args: Any, **options: Any) -> Any:
        frames = original(path, *args, **options)
        yield next(frames)
        write_clip(tmp_path / "new.mp4", 12, seed=2).replace(path)
        yield from frames

    monkeypatch.setattr("coordinator.video.files.clip_frames.decode", replace_after_opening)
    play(job, 9)
    monkeypatch.undo()
    assert play(job, 9) == play(Job(job.clips, job.data, 0, False), 9)


def test_a_folder_that_vanishes_during_the_run_is_a_warning(clips: list[Clip], tmp_path: Path) -> None:
    cache = place("folder", tmp_path)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("")
    events = play(Job(clips[:3], data_of(), 5, True, cache=cache), 9)
    assert len([event for event in events if event[0] == "notice"]) == 1
    assert [event for event in events if event[0] != "notice"] == play(Job(clips[:3], data_of(), 5, True), 9)


def test_entries_not_used_for_longest_make_room_for_those_of_a_new_run(tmp_path: Path) -> None:
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 12, (64, 64), seed=n), 0, 12) for n in range(9)]
    data = data_of(size=64, slots=1)
    play(Job(clips[:6], data, 0, False, cache=place("folder", tmp_path, "1 MiB")), 12, [(0, 0)])
    old = sorted((tmp_path / "cache").rglob("*.frames"))
    for age, path in enumerate(old):
        os.utime(path, (1000 - age, 1000 - age))
    play(Job(clips[6:], data, 0, False, cache=place("folder", tmp_path, "1 MiB")), 12, [(0, 0)])
    left = [path for path in old if path.exists()]
    assert 3 <= len(left) < 6
    assert left == old[: len(left)]


def test_a_full_disk_switches_the_cache_off_with_one_notice(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Draft, "write", fail)
    folder = tmp_path / "cache"
    events = play(Job(clips, data_of(cache=str(folder)), 5, True, cache=place("folder", tmp_path)), 30)
    assert [event[1] for event in events if event[0] == "notice"] == [
        f"no more decoded frames are kept in data.cache ({folder}): No space left on device"
    ]
    assert [event for event in events if event[0] != "notice"] == play(Job(clips, data_of(), 5, True), 30)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.cache: decoded frames cannot be kept in .*file/x: Not a directory"):
        place_of(data_of(cache=str(tmp_path / "file/x")))


def test_a_size_that_is_no_size_is_an_error() -> None:
    assert data_of(cache_size="8 GiB").cache_size == 8 << 30
    with pytest.raises(ValueError, match="byte unit"):
        data_of(cache_size="8 apples")
    with pytest.raises(ValueError, match="live sources"):
        Data(sources=["rtsp://x"], cache="memory")


def ticks(slots: Slots, number: int, kill_at: tuple[int, ...] = ()) -> list[bytes]:
    batch, seen = Batch((3, 3, 16, 16)), []
    for tick in range(number):
        if tick in kill_at:
            slots._pool._workers[tick % 2].process.send_signal(signal.SIGKILL)
        assert slots.fill(batch)
        seen.append(b"".join(array.tobytes() for array in (batch.frames, batch.clips, batch.labels)))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_streams_share_a_cache_and_killed_processes_leave_nothing(videos: Path, tmp_path: Path, kind: str) -> None:
    """Two streams at once fill it, decoding processes are killed meanwhile, and a third stream reads it."""
    found = find(videos / "train", "*", 1).clips
    data, cache = data_of(slots=3, flip=0.5, threads=2), place(kind, tmp_path)
    plain = Slots(Job(found, data, 1, train=True))
    expected = ticks(plain, 150)
    plain.close()
    both = [Slots(Job(found, data, 1, train=True, cache=cache)) for _ in range(2)]
    assert ticks(both[0], 150, kill_at=(20, 50, 81)) == ticks(both[1], 150) == expected
    for slots in both:
        slots.close()
    third = Slots(Job(found, data, 1, train=True, cache=cache))
    assert ticks(third, 150) == expected
    assert third.errors.reasons == []
    third.close()
    if kind == "folder":
        assert not list((tmp_path / "cache/drafts").iterdir())
    cache.close()
    assert not [child for child in psutil.Process().children() if "decoder_pool" in " ".join(child.cmdline())]
