"""The part of a step that is shown, and its way from a reader."""

from typing import Any

import numpy as np
import pytest

from common.errors import PeerError
from common.rule.label_form import LabelForm
from coordinator.reader.messages import (
    PreviewReply,
    PreviewRequest,
    decode_message,
    decode_preview,
    encode_message,
    encode_preview,
)
from coordinator.video.batch import Batch
from coordinator.video.preview import Preview, preview_of, reduced_shape
from coordinator.video.targets import Step
from tests.support.page import config_of

SHAPE = (3, 2, 7, 10)
FORM = LabelForm(2)


def step_of(target: bool) -> Step:
    batch, other = Batch(SHAPE, "uint16", FORM), Batch(SHAPE, "uint16", FORM)
    batch.frames[:] = np.arange(batch.frames.size).reshape(SHAPE)
    other.frames[:] = 7
    batch.labels[:] = [[1, 2], [3, 4], [5, 6]]
    batch.clips[:], other.clips[:] = [1, 2, 3], [1, 9, 9]
    return Step(batch, other if target else batch, False)


@pytest.mark.parametrize("target", [False, True])
def test_some_rows_and_pixels_are_copied(target: bool) -> None:
    step = step_of(target)
    seen = preview_of(4, step, 2, 3)
    expected = step.batch.frames[:2, :, ::3, ::3].copy()
    step.batch.frames[:] = 0  # the memory is used again
    assert np.array_equal(seen.pictures, expected)
    assert seen.pictures.shape == reduced_shape(SHAPE, 2, 3) == (2, 2, 3, 4)
    assert seen.labels.tolist() == [[1, 2], [3, 4]]
    assert seen.known == ([True, False] if target else [True, True])
    assert (seen.targets is None) is not target


def test_colours_that_the_first_stage_jitters_are_shown_jittered() -> None:
    batch = Batch((2, 3, 16, 16))
    batch.frames[:], batch.colours = 100, np.array([[0.5, 1, 1, 0], [2, 1, 1, 0]])
    seen = preview_of(0, Step(batch, batch, last=False), 2, 1)
    assert [set(row.ravel()) for row in seen.pictures] == [{50}, {200}]
    assert batch.frames.min() == batch.frames.max() == 100


def received(shown: PreviewReply, **asked: Any) -> Preview:
    message = decode_message(encode_message(shown), 3)
    assert isinstance(message, PreviewReply)
    config = config_of(data={"train": ".", "slots": 3, "size": [7, 10], "channels": 1, "bits": 16}, task="regress")
    request = PreviewRequest(attempt=3, frames=[4], **{"rows": 2, "every": 3, **asked})
    return decode_preview(message, request, config, FORM)


def test_a_part_of_a_frame_arrives_as_it_was_sent_or_is_refused() -> None:
    pictures = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 1, 3, 4) * 900
    labels = np.array([[1, 2], [3, 4]], np.float32)
    shown = encode_preview(Preview(4, pictures, labels, pictures + 1, [True, False]), FORM, 3)
    found = received(shown)
    assert (found.frame, found.labels.tolist(), found.known) == (4, labels.tolist(), [True, False])
    assert found.targets is not None
    assert np.array_equal(found.pictures, pictures)
    assert np.array_equal(found.targets, pictures + 1)
    for wrong in ({"rows": 1}, {"every": 1}):
        with pytest.raises(PeerError, match="a reader's pictures are malformed"):
            received(shown, **wrong)
    with pytest.raises(PeerError, match="1 rows"):
        received(shown.model_copy(update={"known": [True]}))
