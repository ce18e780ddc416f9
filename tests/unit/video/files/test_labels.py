"""Labels from objects, and labels of frames."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from common.rule.label_form import LabelForm
from coordinator.video.files.labels import FrameLabels, Vocabulary, described, frames_by_class, label_at, mirrored

CLASSES = Vocabulary("classify", ["ant", "bee"])
SEVERAL = Vocabulary("multilabel", ["ant", "bee", "cat"])
POSITION = Vocabulary("regress", ["x", "y"])


@given(st.lists(st.integers(-1, 2), max_size=20), st.integers(0, 25), st.integers(0, 9), st.booleans())
def test_every_frame_keeps_its_label(values: list[int], first: int, count: int, wide: bool) -> None:
    form = LabelForm(2 if wide else None)
    given_labels = np.array(values, np.int64)
    if wide:
        given_labels = np.where(given_labels < 0, np.nan, given_labels)[:, None].repeat(2, 1).astype(np.float32)
    labels = FrameLabels.of(given_labels, form)
    expected = np.concatenate([given_labels, form.empty(40)])[first : first + count]
    assert np.array_equal(labels.at(np.arange(first, first + count)), expected, equal_nan=wide)
    assert len(labels.starts) <= 1 + len(values)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.sampled_from([1, 2, 3, 7, 0.5, 1.25]))
def test_played_frames_have_the_label_of_the_frame_that_they_show(values: list[int], every: float) -> None:
    labels = FrameLabels.of(np.array(values), LabelForm()).sampled(every)
    shown = [math.floor(number * every + 1e-9) for number in range(math.ceil(len(values) / every))]
    assert labels.at(np.arange(len(shown))).tolist() == [values[frame] for frame in shown]


def test_labels_of_a_part_begin_with_its_first_frame() -> None:
    labels = FrameLabels.of(np.array([4, 4, 5, 6, 6]), LabelForm())
    for first in range(5):
        assert labels.after(first).at(np.arange(6 - first)).tolist() == [4, 4, 5, 6, 6, -1][first:]


def test_labels_from_objects() -> None:
    assert [CLASSES.label(value, "") for value in (1, "ant", np.int64(0), None)] == [1, 0, 0, -1]
    assert SEVERAL.label([1, 0, 1], "") == (1.0, 0.0, 1.0)
    assert POSITION.label(np.array([0.5, 2.0]), "") == (0.5, 2.0)
    assert Vocabulary("regress", ["speed"]).label(3, "") == (3.0,)
    assert all(map(math.isnan, POSITION.label(None, "")))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vocabulary", "value", "message"),
    [
        (CLASSES, 2, "clip 7: the class 2 is not one of the 2 of the training clips: ant, bee"),
        (CLASSES, "cow", "clip 7: the class 'cow' is not one of"),
        (SEVERAL, [1, 0], r"clip 7: a label of shape \[2\], but there are 3 classes \(ant, bee, cat\)"),
        (SEVERAL, [1, 0, 2], "clip 7: cat is 2, but must be 1 if the class applies, else 0"),
        (POSITION, [1.0, math.nan], "clip 7: y is nan, which is no number to learn: correct it, or leave all"),
    ],
)
def test_an_object_that_is_no_label_is_an_error(vocabulary: Vocabulary, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        vocabulary.label(value, "clip 7")


def test_mirrored_frames_have_other_numbers() -> None:
    assert mirrored((1.0, 2.0, math.inf), [0, 2]) == (-1.0, 2.0, -math.inf)
    frames = np.array([[1, 2], [3, 4]], np.float32)
    assert np.array_equal(mirrored(frames, [1]), [[1, -2], [3, -4]])
    assert frames[0, 1] == 2


def test_frames_are_counted_by_class() -> None:
    labels = FrameLabels.of(np.array([0, 0, 1, -1, 1]), LabelForm())
    assert frames_by_class([(labels, 5), (1, 10), (-1, 3)], 3).tolist() == [2, 12, 0]
    assert label_at(2, lambda: np.arange(5, 8)) == 2
    assert np.array_equal(label_at(labels, lambda: np.array([1, 2, 4])), [0, 1, 1])
    assert described(labels) != described(labels.sampled(2))
    assert described((1.0, 2.0)) == (1.0, 2.0)
