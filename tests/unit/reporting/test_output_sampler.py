"""Copies of the top stage's output."""

import torch

from stage_worker.reporting.output_sampler import OutputSampler


def test_the_output_for_the_frame_that_was_asked_for_is_copied_once() -> None:
    sampler, y = OutputSampler(), torch.arange(12.0).view(4, 3).requires_grad_()
    assert sampler.due > 10**15
    sampler.ask(7, 2, 1)
    assert (sampler.due, sampler.sample) == (7, None)
    sampler.take(7, y)
    assert sampler.due > 10**15
    assert sampler.sample is not None
    assert sampler.sample.frame == 7
    with torch.no_grad():
        y.zero_()  # its memory is used again
    assert sampler.sample.rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not sampler.sample.rows.requires_grad
    sampler.ask(9, 1, 1)
    assert sampler.sample is None
    sampler.take(12, y)  # the request came late
    assert sampler.sample is not None
    assert sampler.sample.frame == 12


def test_of_pictures_some_pixels_are_copied() -> None:
    sampler, y = OutputSampler(), torch.arange(50.0, dtype=torch.bfloat16).view(2, 1, 5, 5)
    sampler.ask(0, 1, 2)
    sampler.take(0, y)
    assert sampler.sample is not None
    assert sampler.sample.rows.dtype == torch.float32
    assert sampler.sample.rows.tolist() == [[[[0, 2, 4], [10, 12, 14], [20, 22, 24]]]]
