"""Clip players in decoding processes, and clips that cannot be read or decoded."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.error import err_check

from common.config.settings import Data
from common.errors import DataError
from coordinator.video.decoder_pool.clip_player import ClipPlayer, Job
from coordinator.video.decoding import reader
from coordinator.video.decoding.opening import open_file
from coordinator.video.files.clips import Clip
from tests.support.sampling import AUGMENTED, by_player, played
from tests.support.videos import write_clip, write_pictures


def test_decoding_processes_give_the_same_frames_as_a_player(tmp_path: Path) -> None:
    """With every augmentation on."""
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 7 + 30 * n, size=(64, 48), seed=n), 0, 1) for n in range(2)]
    data = Data(train=tmp_path, size=48, slots=2, threads=1, **AUGMENTED)
    frames, _, _ = played(clips, data, 60)
    job = Job(clips, data, 5, train=True)
    assert np.array_equal(np.stack(frames, axis=1), [by_player(job, slot, 60) for slot in range(2)])


def failing(times: int, name: str) -> Callable[[Path], Any]:
    """Opens files, but the first so many `times` a file or picture with this name has an error of the disk."""
    left = [times]

    def opened(path: Path) -> Any:
        if path.name.startswith(name) and left[0]:
            left[0] -= 1
            err_check(-errno.EIO, str(path))
        return open_file(path)

    return opened


@pytest.mark.parametrize("pictures", [False, True])
def test_a_clip_that_could_not_be_read_is_tried_again_but_not_one_that_cannot_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: bool
) -> None:
    flaky = tmp_path / "flaky"
    if pictures:
        write_pictures(flaky, "flaky", 3)
    else:
        write_clip(tmp_path / "flaky.mp4", 3).rename(flaky)
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    clips = [Clip(flaky, 0, 3, 3 if pictures else None), Clip(tmp_path / "bad.mp4", 0, 3)]
    data = Data(train=tmp_path, size=16, slots=1)
    monkeypatch.setattr(reader, "open_file", failing(12 if pictures else 4, "flaky"))
    errors: list[tuple[str, str]] = []
    begun: list[Path] = []
    room = np.zeros((3, 3, 16, 16), np.uint8)
    player = ClipPlayer(Job(clips, data, 0, train=True), lambda *error: errors.append(error))
    chunk = next(player.chunks(0, 0, lambda: room, begun.append))
    assert chunk.frames == 3
    assert [path.name for path in begun].count("flaky") == 3, "played the third time"
    assert [path.name for path in begun].count("bad.mp4") == 1
    assert sum("Input/output error" in reason for _, reason in errors) == 2
    assert {kind for kind, _ in errors} == {"skipped"}


def test_a_stream_of_which_no_clip_can_be_read_ends(tmp_path: Path) -> None:
    player = ClipPlayer(
        Job([Clip(tmp_path / "gone.mp4", 0, 3)], Data(train=tmp_path, slots=1), 0, True), lambda *_: None
    )
    with pytest.raises(DataError, match=r"none of the 1 clips can be decoded: .*gone.mp4: No such file"):
        next(player.chunks(0, 0, lambda: np.zeros((3, 3, 64, 64), np.uint8)))
