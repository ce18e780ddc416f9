"""Arrays of frames."""

import numpy as np
import pytest
import torch

from common.errors import DataError
from coordinator.python.frames import pixels

COLOURS = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)


def test_frames_of_the_right_size_are_kept() -> None:
    expected = COLOURS.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(pixels(COLOURS, 20, 3), expected)
    np.testing.assert_array_equal(pixels(torch.from_numpy(COLOURS), 20, 3), expected)
    np.testing.assert_array_equal(pixels(COLOURS[0], 20, 3), expected[:1])
    np.testing.assert_array_equal(pixels(COLOURS[0, ..., 0], 20, 1), expected[:1, :1])


def test_others_are_resized_and_converted() -> None:
    assert pixels(COLOURS, 10, 3).shape == (2, 3, 10, 15)
    assert pixels(COLOURS, 20, 1).shape == (2, 1, 20, 30)
    assert pixels(COLOURS[..., :1], 40, 3).shape == (2, 3, 40, 60)
    plain = pixels(np.full((1, 20, 30, 3), (250, 120, 30), np.uint8), 10, 3)
    assert np.abs(plain.astype(int) - np.array([250, 120, 30])[:, None, None]).max() <= 2


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8, 3)), np.zeros((2, 3, 8, 8), np.uint8), np.zeros((0, 8, 8, 3), np.uint8), np.zeros(3)]
)
def test_other_arrays_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"pass uint8 pixels, \[n, height, width, channels\]"):
        pixels(frames, 8, 3)
    with pytest.raises(DataError, match="too narrow"):
        pixels(np.zeros((1, 100, 2, 3), np.uint8), 8, 3)


@pytest.mark.parametrize(
    ("frames", "remedy"),
    [
        (np.zeros((2, 8, 9), np.uint8), "frames[..., None]"),
        (np.zeros((2, 8, 9, 3)), '(frames * 255).astype("uint8") if they are from 0 to 1'),
        (np.zeros((2, 3, 8, 9), np.uint8), "np.moveaxis(frames, 1, -1)"),
        (np.zeros((3, 8, 9), np.uint8), "np.moveaxis(frames, 0, -1)"),
        (np.zeros((2, 8, 9, 3), np.int64), 'frames.astype("uint8")'),
        (
            torch.zeros(2, 3, 8, 9, requires_grad=True),
            "torch.movedim(frames, 1, -1), and (frames * 255).to(torch.uint8) if they are from 0 to 1",
        ),
    ],
)
def test_an_array_of_another_common_form_is_refused_with_the_remedy(
    frames: np.ndarray | torch.Tensor, remedy: str
) -> None:
    with pytest.raises(DataError) as error:
        pixels(frames, 8, 3)
    assert str(error.value).endswith(f". Here: {remedy}")
    made = frames
    for step in remedy.removesuffix(" if they are from 0 to 1").split(", and "):
        made = eval(step, {"np": np, "torch": torch, "frames": made})
    assert pixels(made, 8, 3).shape[:2] == (len(made) if made.ndim == 4 else 1, 3)


def test_several_files_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match="pass one at a time"):
        pixels(["a.mp4", "b.mp4"], 8, 3)  # type: ignore[arg-type]
