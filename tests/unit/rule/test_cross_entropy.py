"""The cross entropy with weights of classes."""

import torch
import torch.nn.functional as F

from common.rule.cross_entropy import CrossEntropy

LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 0, 1])


def test_without_weights_it_is_torchs() -> None:
    assert torch.equal(CrossEntropy(0.1)(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))


def test_every_row_counts_by_the_weight_of_its_class() -> None:
    weights = [0.5, 2.0, 0.0]
    each = F.cross_entropy(LOGITS, LABELS, reduction="none")
    expected = (each * torch.tensor(weights)[LABELS]).sum() / 6
    torch.testing.assert_close(CrossEntropy(weights=weights)(LOGITS, LABELS), expected)


def test_micro_batches_add_up() -> None:
    loss = CrossEntropy(0.1, [0.5, 2.0, 1.0])
    parts = [loss(LOGITS[rows], LABELS[rows]) for rows in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(parts) / 2, loss(LOGITS, LABELS))


def test_outputs_that_stand_for_no_class_are_weighed_as_torch_weighs_by_default() -> None:
    weights = [0.5, 2.0, 0.0]
    logits = torch.cat([LOGITS, torch.zeros(6, 2)], 1)
    each = F.cross_entropy(logits, LABELS, reduction="none")
    expected = (each * torch.tensor(weights)[LABELS]).sum() / 6
    torch.testing.assert_close(CrossEntropy(weights=weights)(logits, LABELS), expected)
