"""Decoding processes that die or hang: the stream continues unchanged, or an error says what to do."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoder_pool.decode_lock import DecodeLock
from coordinator.video.decoder_pool.pool import Waiting
from coordinator.video.files.clips import Clip, find
from coordinator.video.slots import Slots
from tests.support.videos import write_clip

DATA = Data(train=Path(), slots=3, size=16, flip=0.5)


def decoders() -> list[psutil.Process]:
    """The decoding processes that are alive. Processes that die meanwhile are left out."""
    return [
        child for child in psutil.Process().children() if "coordinator.video.decoder_pool.worker" in _command(child)
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # the process has ended or is a zombie
        return []


def play(slots: Slots, ticks: int, signal_at: tuple[int, ...] = (), signal_number: int = signal.SIGKILL) -> list[bytes]:
    batch, seen = Batch((3, 3, 16, 16)), []
    for tick in range(ticks):
        if tick in signal_at:
            decoders()[0].send_signal(signal_number)
        assert slots.fill(batch)
        seen.append(b"".join(array.tobytes() for array in (batch.frames, batch.clips, batch.labels)))
    return seen


def test_a_killed_process_is_replaced_and_no_frame_is_lost(videos: Path) -> None:
    clips = find(videos / "train", "*", 1).clips
    undisturbed, disturbed = Slots(Job(clips, DATA, 1, train=True)), Slots(Job(clips, DATA, 1, train=True))
    expected = play(undisturbed, 150)
    undisturbed.close()
    assert play(disturbed, 150, signal_at=(0, 50, 100)) == expected
    disturbed.close()
    assert disturbed.errors.skipped == 0
    assert not decoders()


def test_a_file_that_kills_two_processes_is_skipped(tmp_path: Path) -> None:
    """A named pipe stands for the file: opening it blocks, and the process is killed then."""
    good = write_clip(tmp_path / "good.mp4", 12)
    deadly = tmp_path / "deadly.mp4"
    os.mkfifo(deadly)

    def kill() -> None:
        decoding = slots._pool._decoding(slots._pool._workers[0])
        if slots._pool._busy_with(decoding) == deadly:
            decoding.process.kill()

    data = DATA.model_copy(update={"threads": 1})
    slots = Slots(Job([Clip(deadly, 0, 12), Clip(good, 0, 12)], data, 0, train=True), waiting=Waiting(meanwhile=kill))
    play(slots, 60)
    slots.close()
    assert slots.errors.skipped > 1
    assert "deadly.mp4: two processes that decoded it died, the last by signal SIGKILL" in slots.errors.reasons[0]


def test_a_file_that_kills_every_process_once_does_not_end_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that run do not learn what others died of."""
    monkeypatch.setattr("coordinator.video.decoder_pool.pool._REPLACEMENTS", 2)
    good, deadly, killed = write_clip(tmp_path / "good.mp4", 12), tmp_path / "deadly.mp4", list[int]()
    os.mkfifo(deadly)

    def kill() -> None:
        for worker in slots._pool._workers:
            process = slots._pool._decoding(worker).process
            if slots._pool._busy_with(worker) == deadly and worker.process is process and process.pid not in killed:
                killed.append(process.pid)
                process.kill()

    data = DATA.model_copy(update={"threads": 3})
    clips = [Clip(deadly, 0, 12), *[Clip(good, 0, 12)] * 2]
    slots = Slots(Job(clips, data, 0, train=True), waiting=Waiting(meanwhile=kill))
    play(slots, 200)
    slots.close()
    assert len(killed) > 2


def test_processes_that_always_die_are_an_error(videos: Path) -> None:
    slots = Slots(Job(find(videos / "train", "*", 1).clips, DATA, 0, train=True))
    batch = Batch((3, 3, 16, 16))

    def play_on() -> None:
        while True:
            for process in decoders():
                with suppress(psutil.Error):
                    process.kill()
            slots.fill(batch)

    with pytest.raises(DataError, match="ended with signal SIGKILL, after 10 others of this stream"):
        play_on()
    slots.close()


def test_a_process_that_does_not_begin_is_not_waited_for_before_others_are_looked_at(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is to decode may be more than a connection holds."""
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 30\n")
    idle.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(idle))
    clips, waits = find(videos / "train", "*", 1).clips, []

    def give_up() -> None:
        waits.append(1)
        raise DataError("given up")

    slots = Slots(Job(clips * 4000, DATA, 0, train=True), waiting=Waiting(meanwhile=give_up))
    with pytest.raises(DataError, match="given up"):
        slots.fill(Batch((3, 3, 16, 16)))
    slots.close()


def test_a_stopped_process_is_replaced_and_no_frame_is_lost(videos: Path) -> None:
    clips = find(videos / "train", "*", 1).clips
    undisturbed, disturbed = (
        Slots(Job(clips, DATA, 1, train=True)),
        Slots(Job(clips, DATA, 1, train=True), waiting=Waiting(timeout=3.0)),
    )
    expected = play(undisturbed, 150)
    undisturbed.close()
    # not before all have reported: they may take a minute to start
    assert play(disturbed, 150, signal_at=(1, 50, 100), signal_number=signal.SIGSTOP) == expected
    disturbed.close()
    assert disturbed.errors.skipped == 0
    assert not decoders()


def test_a_file_that_hangs_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck.mp4")
    slots = Slots(Job([Clip(tmp_path / "stuck.mp4", 0, 1)], DATA, 0, train=True), waiting=Waiting(timeout=4.0))
    batch = Batch((3, 3, 16, 16))
    with pytest.raises(DataError, match=r"stuck\.mp4 took longer than 1\.6 s to decode, twice"):
        slots.fill(batch)
    slots.close()


@pytest.mark.parametrize("first", ["good", "stuck"])
def test_the_hanging_file_is_named_and_not_one_that_waits_for_the_lock(tmp_path: Path, first: str) -> None:
    os.mkfifo(tmp_path / "stuck.mp4")
    good = write_clip(tmp_path / "good.mp4", 400)
    data = DATA.model_copy(update={"threads": 1, "slots": 2})

    def wake() -> None:
        """Unblock the good file once the other one holds the lock."""
        if DecodeLock(slots._pool.ring.file, 0).holder() == members[1].process.pid:
            members[0].process.send_signal(signal.SIGCONT)

    clips = [Clip(good, 0, 400), Clip(tmp_path / "stuck.mp4", 0, 1)]
    slots = Slots(Job(clips, data, 0, train=False), waiting=Waiting(timeout=4.0, meanwhile=wake))
    members, batch = slots._pool._workers, Batch((2, 3, 16, 16))
    if first == "stuck":
        members[0].process.send_signal(signal.SIGSTOP)
    with pytest.raises(DataError, match=r"stuck\.mp4 took longer than 1\.6 s to decode, twice"):
        slots.fill(batch)
    slots.close()


def test_decoding_processes_end_with_their_coordinator(videos: Path) -> None:
    slots = Slots(Job(find(videos / "train", "*", 1).clips, DATA, 0, train=True))
    play(slots, 3)
    processes = decoders()
    assert len(processes) == 3  # a pair, and one for the third slot
    for member in slots._pool._workers:
        member.connection.close()  # as the kernel does when the coordinator is killed
    end = time.monotonic() + 10
    while decoders():
        assert time.monotonic() < end
        time.sleep(0.05)
    slots.close()


@pytest.mark.parametrize(
    ("clips", "message"), [(2, "none of the 1 clips can be decoded: .*no frames from"), (5000, "stop")]
)
def test_clips_that_all_begin_after_the_end_of_their_files_are_an_error(
    tmp_path: Path, clips: int, message: str
) -> None:
    """As segments of a film of which only a part was copied. Meanwhile a stop is noticed, although messages come."""
    film = write_clip(tmp_path / "film.mp4", 12)
    start = time.monotonic()

    def stop() -> None:
        if time.monotonic() > start + 1:
            raise DataError("stop")

    many = [Clip(film, 0, 10, first=500 + number) for number in range(clips)]
    slots = Slots(Job(many, DATA, 0, train=True), waiting=Waiting(meanwhile=stop if clips > 2 else lambda: None))
    with pytest.raises(DataError, match=message):
        slots.fill(Batch((3, 3, 16, 16)))
    slots.close()
