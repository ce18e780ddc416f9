"""Augmentations are drawn once per clip and stay within the frame."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.config.settings import Data
from coordinator.video.decoder_pool.clip_player import Job
from coordinator.video.decoding.augment import draw, middle
from coordinator.video.files.clips import Clip
from tests.support.sampling import AUGMENTED, by_player
from tests.support.videos import video_stream


@pytest.mark.parametrize(
    "on", [{name: value} for name, value in AUGMENTED.items()] + [AUGMENTED], ids=[*AUGMENTED, "all"]
)
def test_augmentation_is_drawn_once_per_clip(tmp_path: Path, on: dict[str, Any]) -> None:
    """On a still picture, all frames of a playing are equal and playings differ. Threads share no generator."""
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    path = tmp_path / "x.avi"
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(21):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = Data(train=tmp_path, size=48, slots=2, **on)
    job = Job([Clip(path, 0, 21)], data, 5, train=True)
    first = [by_player(job, slot, 3 * 21) for slot in range(2)]
    torch.rand(1)
    again = [by_player(job, slot, 3 * 21) for slot in range(2)]
    assert np.array_equal(first, again)
    looks = [{frame.tobytes() for frame in slot[n * 21 : (n + 1) * 21]} for slot in first for n in range(3)]
    assert all(len(look) == 1 for look in looks)
    assert len({next(iter(look)) for look in looks}) > 1


def test_disabled_augmentations_draw_no_random_numbers() -> None:
    """So runs of earlier versions play the same frames: top, left and flip are the generator's first three draws."""
    frames, data = np.zeros((1, 3, 40, 50), np.uint8), Data(train=Path(), size=16, flip=0.5)
    random = np.random.default_rng([7, 1, 3])
    expected = int(random.integers(0, 25)), int(random.integers(0, 35)), bool(random.random() < 0.5)
    drawing = np.random.default_rng([7, 1, 3])
    choice = draw(frames.shape[-2:], data, drawing)
    assert (choice.top, choice.left, choice.mirrored) == expected
    assert drawing.random() == random.random()
    assert (choice.brightness, choice.contrast, choice.saturation, choice.hue) == (1, 1, 1, 0)


@given(st.integers(0, 10**6), st.integers(20, 300), st.integers(20, 300), st.floats(0.01, 1), st.floats(0.2, 5))
@hypothesis_settings(max_examples=100)
def test_a_random_resized_crop_is_within_the_frame(
    seed: int, height: int, width: int, least: float, ratio: float
) -> None:
    data = Data(train=Path(), size=16, scale=(least, 1.0), ratio=(ratio, 1.3 * ratio))
    frames = np.zeros((2, 3, height, width), np.uint8)
    choice = draw((height, width), data, np.random.default_rng(seed))
    assert 0 <= choice.top <= height - choice.height
    assert 0 <= choice.left <= width - choice.width
    assert choice(frames).shape == (2, 3, 16, 16)


def test_frames_that_are_not_square() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 30, 50), np.uint8)
    data = Data(train=Path(), size=(20, 40), flip=1)
    choice = draw((30, 50), data, np.random.default_rng(1))
    rows, columns = slice(choice.top, choice.top + 20), slice(choice.left, choice.left + 40)
    assert np.array_equal(choice(frames), frames[..., rows, columns][..., ::-1])
    out = np.empty((2, 3, 20, 40), np.uint8)
    choice.write([list(frame) for frame in frames], out)
    assert np.array_equal(out, choice(frames))
    assert np.array_equal(middle(frames, (20, 40))(frames), frames[..., 5:25, 5:45])


def test_a_random_resized_crop_has_the_shape_of_the_size() -> None:
    frames, random = np.zeros((1, 3, 200, 200), np.uint8), np.random.default_rng(0)
    data = Data(train=Path(), size=(20, 60), scale=(0.1, 0.2), ratio=(1, 1))
    for _ in range(9):
        choice = draw((200, 200), data, random)
        assert choice.width / choice.height == pytest.approx(3, rel=0.1)
        assert choice(frames).shape == (1, 3, 20, 60)
