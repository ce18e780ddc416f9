"""Losses that are not finite or too high."""

import pytest

from common.config.run_file import parse
from common.config.settings import Config
from common.errors import PeerError, SidewaysError
from coordinator.run.divergence import divergence, has_diverged, slower
from tests.support.reports import progress


def config(**recovery: object) -> Config:
    return parse({"ticks": 1, "data": {"train": "."}, "recovery": recovery, "checkpoint": {"every": 10}}, "test")


@pytest.mark.parametrize(
    ("loss", "diverged"), [(None, False), (5.0, False), (10.0, False), (10.5, True), (float("nan"), True)]
)
def test_a_loss_is_diverged_above_the_limit_or_if_not_finite(loss: float | None, diverged: bool) -> None:
    report = progress(loss=loss, counted=None if loss is None else 1)
    assert has_diverged(report, config(highest_loss=10.0).recovery) is diverged


def test_divergence_restarts_the_processes_only_with_rollback() -> None:
    report = progress(tick=7, loss=float("inf"), counted=1)
    assert type(divergence(report, config())) is SidewaysError
    rollback = config(divergence="rollback", slower=0.25)
    assert type(divergence(report, rollback)) is PeerError
    assert slower(rollback).optimiser.lr == rollback.optimiser.lr / 4
