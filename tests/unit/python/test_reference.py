"""Functions as settings."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from common.errors import ConfigError
from common.models import ZOO
from coordinator.python.reference import dataset_reference, reference

HERE = Path(__file__).resolve()


def build(classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


class Net(nn.Sequential):
    pass


@functools.cache
def decorated(classes: int) -> nn.Sequential:
    return build(classes)


def test_functions_and_classes_of_files_and_of_the_zoo() -> None:
    assert reference(build) == f"{HERE}:build"
    assert reference(Net) == f"{HERE}:Net"
    assert reference(decorated) == f"{HERE}:decorated"
    assert reference(ZOO["vgg8"]) == "vgg8"


def test_an_error_names_the_setting() -> None:
    assert reference(build, "loss") == f"{HERE}:build"
    with pytest.raises(ConfigError, match=r'loss = build: it exists only in this session.*pass loss="mine.py:build"'):
        reference(in_a_cell(), "loss")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss", r'^loss is an object of CrossEntropyLoss: name it at the top level .* loss="mine\.py:NAME"'),
        ("val_metrics", r'^val_metrics is .*: name its class, "CrossEntropyLoss" or {"metric": "CrossEntropyLoss", …}'),
        ("dataset", r"^dataset is an object of CrossEntropyLoss: pass a function that makes it$"),
    ],
)
def test_an_object_of_a_module_is_refused_with_the_remedy_of_its_setting(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reference(nn.CrossEntropyLoss(), setting)


def in_a_cell() -> Callable[..., Any]:
    """As in a notebook: the module has no file, or not that of the code."""
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile("def build(classes): pass", "/tmp/ipykernel_1/2.py", "exec"), names)
    function: Callable[..., Any] = names["build"]
    return function


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (in_a_cell(), r"exists only in this session.*%%writefile mine.py.*mine.py:build"),
        (lambda: None, "has no name in a file"),
        (functools.partial(build, 3), "pass its arguments as model_args"),
        (nn.Sequential(), "pass the function that builds it"),
    ],
)
def test_what_other_processes_cannot_import_is_refused(factory: Callable[..., Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reference(factory)


def test_a_name_that_means_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build
    monkeypatch.setitem(globals(), "build", Net)
    with pytest.raises(ConfigError, match="has another build"):
        reference(before)


class Clips:
    pass


at_the_top = Clips()


def test_datasets_and_what_makes_them() -> None:
    assert dataset_reference(Clips) == f"{HERE}:Clips"
    assert dataset_reference(at_the_top) == f"{HERE}:at_the_top"
    assert dataset_reference("mine.py:clips") == "mine.py:clips"
    assert dataset_reference(Path("videos/train")) == "videos/train"
    with pytest.raises(ConfigError, match=r"validation is an object of Clips that exists only in.*%%writefile"):
        dataset_reference(Clips(), "validation")
    with pytest.raises(ConfigError, match=r"dataset = .*lambda.* has no name in a file"):
        dataset_reference(lambda: None)
