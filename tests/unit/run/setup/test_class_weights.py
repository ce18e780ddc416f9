"""Weights of the classes."""

from pathlib import Path

import pytest

from common.errors import ConfigError
from coordinator.run.setup.class_weights import with_class_weights
from coordinator.video.files.clips import Clip, Clips
from tests.support.settings import config_of

CLIPS = Clips(Path("clips"), ["a", "b", "c"], [Clip(Path("1"), 0, 10), Clip(Path("2"), 2, 20), Clip(Path("3"), 2, 10)])


def test_balanced_weights_are_inverse_to_the_frames_of_a_class(tmp_path: Path) -> None:
    weights = with_class_weights(config_of(tmp_path, class_weights="balanced"), CLIPS).class_weights
    assert weights == [2.0, 0.0, pytest.approx(2 / 3)]
    assert pytest.approx(1.0) == (2.0 * 10 + 2 / 3 * 30) / 40


def test_given_weights_remain_and_none_is_none(tmp_path: Path) -> None:
    assert with_class_weights(config_of(tmp_path, class_weights=[1.0, 2.0, 3.0]), CLIPS).class_weights == [
        1.0,
        2.0,
        3.0,
    ]
    assert with_class_weights(config_of(tmp_path), CLIPS).class_weights is None


def test_other_tasks_have_none(tmp_path: Path) -> None:
    several = Clips(Path("clips"), ["a", "b"], [Clip(Path("1"), (1.0, 0.0), 10)], task="multilabel")
    assert (
        with_class_weights(config_of(tmp_path, task="multilabel", class_weights="balanced"), several).class_weights
        is None
    )


def test_a_weight_is_needed_for_every_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="class_weights has 2 values, but there are 3 classes"):
        with_class_weights(config_of(tmp_path, class_weights=[1.0, 2.0]), CLIPS)


def test_of_a_long_clip_a_window_counts(tmp_path: Path) -> None:
    config = config_of(tmp_path, class_weights="balanced", data__window=4, data__snippets=2)
    assert with_class_weights(config, CLIPS).class_weights == [1.5, 0.0, 0.75]


def test_classes_are_not_balanced_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plays the classes equally often already: leave out class_weights"):
        config_of(tmp_path, class_weights="balanced", data__balance=True)
