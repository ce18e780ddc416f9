"""Damaged files: training, check, eval and predict see the same frames as a player."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from coordinator.tools.check_data import check, figures, quarantine, settings
from coordinator.video.batch import Batch
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.packets import Damage
from coordinator.video.decoding.reader import read
from coordinator.video.slots import Slots
from tests.support.processes import sideways
from tests.support.videos import count, spoil, write_moving, write_pictures


def test_one_damaged_packet_costs_one_frame(tmp_path: Path) -> None:
    assert count(spoil(write_moving(tmp_path / "x.mp4", 100, g="1", bf="0"), [10])) == (99, 1)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_decoding_continues_after_damage(tmp_path: Path, codec: str) -> None:
    options = {"g": "25", "x265-params": "log-level=none"} if codec == "libx265" else {"g": "25"}
    path = write_moving(tmp_path / "x.mp4", 200, codec, (96, 64), **options)
    data = bytearray(path.read_bytes())
    media = data.index(b"mdat") + 4
    middle = media + (len(data) - media) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).integers(0, 256, 3000, np.uint8).tobytes()
    path.write_bytes(data)
    frames, _ = count(path)
    assert 150 < frames <= 200


def test_all_readers_see_the_same_frames_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "v" / "a" / "x.mp4"
    path.parent.mkdir(parents=True)
    spoil(write_moving(path, 60, g="1", bf="0"), [7, 30])
    config = settings(tmp_path / "v", ["data.size=16", "data.slots=1"])
    survey = check(config)[0]
    assert figures(survey, config)["frames"] == 58
    assert not survey.bad
    assert survey.damaged[path].startswith("2 of its packets or pictures cannot be decoded")
    assert quarantine([survey], tmp_path / "bad.txt") == 0
    slots, batch, played = Slots(Job(survey.clips.clips, config.data, 0, train=False)), Batch(config.frame_shape), 0
    while slots.fill(batch):
        played += 1
    slots.close()
    assert played == 58
    assert (slots.errors.damaged, slots.errors.broken) == (1, 0)
    assert "2 of its packets" in slots.errors.reasons[0]


def test_check_reports_damage_and_accepts_the_file(tmp_path: Path) -> None:
    path = tmp_path / "v" / "a" / "x.mp4"
    path.parent.mkdir(parents=True)
    spoil(write_moving(path, 30, g="1", bf="0"), [7])
    done = sideways("check", tmp_path / "v", "--size", "16", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"damaged: {path}: 1 of its packets" in done.stdout
    last = json.loads(done.stdout.splitlines()[-1])["parts"][0]
    assert (last["frames"], last["damaged_files"], last["bad_files"]) == (29, 1, 0)


def test_all_frames_before_a_truncation_are_read(tmp_path: Path) -> None:
    """Also those of the last, incomplete chunk."""
    path = write_moving(tmp_path / "x.y4m", 30, "rawvideo")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"x" * (len(data) - len(data) // 2))
    frames: list[object] = []
    with pytest.raises(DataError, match="Invalid data"):
        frames.extend(frame for chunk in read(path, 1, 32, 1) for frame in chunk)
    assert len(frames) in (14, 15)


# ---- which stream


# ---- folders of frames


def test_a_broken_image_is_replaced_by_the_previous_one_and_named(tmp_path: Path) -> None:
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
