"""Too many stages for a model, and an unknown optimiser, are noticed before any process starts."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.models import build, count_blocks
from coordinator.launch.model_depth import check_model_depth, check_with_torch
from tests.support.models import user_model
from tests.support.settings import config_of


def test_blocks_are_counted_as_they_are_built(tmp_path: Path) -> None:
    for cuts in ("blocks", "layers"):
        config = config_of(tmp_path, model="vgg8", model_args={"width": 4, "temporal": "motion"}, cuts=cuts)
        assert count_blocks(config) == len(build(config, 3))


def test_what_the_model_cannot_be_divided_into_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, model="vgg8", model_args={})

    def check(**changes: Any) -> None:
        check_model_depth(config.model_copy(update={"split": None, **changes}))

    check(stages=8)
    with pytest.raises(ConfigError, match="stages = 40, but the model has only 24 blocks: use at most 24 stages"):
        check(stages=40)
    with pytest.raises(ConfigError, match=r"split = \[3, 3\] sums to 6 blocks, but the model has 8"):
        check(stages=2, split=[3, 3])
    with pytest.raises(ConfigError, match=r"cannot be built with model_args = \{'wdith': 4\}"):
        check(stages=2, model_args={"wdith": 4})


def test_an_unknown_optimiser_is_refused(tmp_path: Path) -> None:
    check_with_torch(config_of(tmp_path))
    with pytest.raises(ConfigError, match=r"Did you mean AdamW\?"):
        check_with_torch(config_of(tmp_path, optimiser__name="Adamw"))


def test_stages_that_are_too_many_for_the_layers_are_not_said_to_begin_there(tmp_path: Path) -> None:
    body = "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.ReLU())"
    config, told = config_of(tmp_path, model=user_model(tmp_path, body), model_args={}), list[str]()
    build(config.model_copy(update={"stages": 5}), 3, told.append)
    build(config.model_copy(update={"stages": 9, "model": "vgg8"}), 3, told.append)
    assert len(told) == 1
    assert told[0].startswith("9 stages, but the model has 8 blocks: stages also begin inside blocks")


def test_foreign_models_are_left_to_the_coordinator(tmp_path: Path) -> None:
    model = user_model(tmp_path, "raise RuntimeError('it was run')")
    config = config_of(tmp_path, model=model, model_args={})
    check_model_depth(config.model_copy(update={"stages": 40, "split": None}))
