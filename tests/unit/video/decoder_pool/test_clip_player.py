"""Clip players in decoding processes."""

from pathlib import Path

import numpy as np

from common.config.settings import Data
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.files.clips import Clip
from tests.support.sampling import AUGMENTED, by_player, played
from tests.support.videos import write_clip


def test_decoding_processes_give_the_same_frames_as_a_player(tmp_path: Path) -> None:
    """With every augmentation on."""
    clips = [Clip(write_clip(tmp_path / f"{n}.mp4", 7 + 30 * n, size=(64, 48), seed=n), 0, 1) for n in range(2)]
    data = Data(train=tmp_path, size=48, slots=2, threads=1, **AUGMENTED)
    frames, _, _ = played(clips, data, 60)
    job = Job(clips, data, 5, train=True)
    assert np.array_equal(np.stack(frames, axis=1), [by_player(job, slot, 60) for slot in range(2)])
