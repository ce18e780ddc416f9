"""Values from Python in settings that take any: what a run file can hold is passed on, the rest is refused by name."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from common.config.run_file import changed
from common.config.settings import Config
from common.errors import ConfigError


def given(**settings: Any) -> Config:
    return changed(None, {"ticks": 1, "data": {"train": "."}, **settings})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(8), 8),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (torch.tensor(8), 8),
        (np.array(3), 3),
        (Path("a/b"), "a/b"),
        ((1, np.int64(2)), [1, 2]),
        ({"depths": (np.int32(3),)}, {"depths": [3]}),
        ("text", "text"),
    ],
)
def test_what_a_run_file_can_hold_is_passed_on(value: Any, expected: Any) -> None:
    config = given(model_args={"it": value})
    assert config.model_args == {"it": expected}
    assert type(config.model_args["it"]) is type(expected)
    tree = config.model_dump(mode="json", exclude_none=True)
    assert tomli_w.dumps(tree)
    assert changed(config, {}).model_args == {"it": expected}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_args": {"norm_layer": None}}, r"^settings: model_args\.norm_layer = None cannot be passed to the"),
        (
            {"model_args": {"since": date(2024, 1, 1)}},
            r"model_args\.since = datetime\.date.* cannot be passed",
        ),
        ({"model_args": {"act": torch.nn.GELU}}, r"model_args\.act = <class 'torch.*GELU'> cannot .*Leave it out to"),
        ({"model_args": {"widths": [1, None]}}, r"model_args\.widths\[1\] = None"),
        ({"model_args": {"widths": {1: 2}}}, r"model_args\.widths = {1: 2}"),
        ({"model_args": {"mean": np.zeros(2)}}, r"model_args\.mean = array\(\[0\., 0\.\]\)"),
        ({"optimiser": {"args": {"foreach": None}}}, r"settings: optimiser\.args\.foreach = None"),
        ({"val_metrics": [{"metric": "Accuracy", "average": None}]}, r"val_metrics\[0\]\.average = None cannot"),
    ],
)
def test_what_it_cannot_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        given(**settings)
