"""Forms of labels, and how they lie in packets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.rule.label_form import ONE_CLASS, LabelForm
from common.rule.packet import Packet, StagedPacket, packet_bytes

FORMS = st.builds(LabelForm, st.none() | st.integers(1, 9))


@given(FORMS, st.integers(1, 5), st.booleans())
def test_labels_of_any_width_ride_in_a_packet_and_an_envelope(form: LabelForm, rows: int, staged: bool) -> None:
    sent, got = Packet((rows, 3), labels=form), Packet((rows, 3), labels=form)
    if staged:  # as on a GPU
        got = StagedPacket((rows, 3), torch.float32, torch.device("cpu", 0), form)
    labels = np.random.default_rng(0).integers(-9, 9, form.shape(rows)).astype(sent.labels.dtype)
    sent.clips[:], sent.labels[:] = range(rows), labels
    sent.tensor.copy_(torch.randn(rows, 3))
    got.from_bytes(sent.to_bytes())
    got.load()
    assert np.array_equal(got.labels, labels)
    assert np.array_equal(got.label_tensor.numpy(), labels)
    assert np.array_equal(got.clips, sent.clips)
    assert torch.equal(got.tensor, sent.tensor)
    assert sent.nbytes == sent.to_bytes().nbytes == packet_bytes((rows, 3), torch.float32, form)
    assert np.array_equal(form.from_bytes(form.to_bytes(labels), rows), labels)
    with pytest.raises(ValueError, match=r"reshape|buffer size"):
        form.from_bytes(form.to_bytes(labels)[4:], rows)


@given(FORMS, st.integers(1, 5))
def test_rows_without_a_label_are_known(form: LabelForm, rows: int) -> None:
    labels = form.empty(rows)
    assert not form.known(labels).any()
    labels[rows - 1] = 0
    assert form.known(labels).tolist() == [False] * (rows - 1) + [True]
    assert ONE_CLASS.empty(2).tolist() == [-1, -1]
