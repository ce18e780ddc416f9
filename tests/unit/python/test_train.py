"""What `sideways.train` makes of its arguments; whole runs from Python are in tests/distributed/test_python.py."""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import sideways
from common.errors import ConfigError, SidewaysError
from coordinator.python import train as module
from tests.support import models


def test_functions_of_files_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def run(arguments: Sequence[str], folder: Path, callbacks: Sequence[Callable[..., None]]) -> None:
        seen.append(tomllib.loads(Path(arguments[0]).read_text()))

    monkeypatch.setattr(module, "_run", run)
    metrics = ["Accuracy", models.with_dropout]
    module.train(task="regress", ticks=1, data={"train": ".", "flip": 0}, loss=models.with_dropout, val_metrics=metrics)
    file = f"{Path(models.__file__)}:with_dropout"
    assert (seen[0]["loss"], seen[0]["val_metrics"]) == (file, ["Accuracy", file])


def test_a_taken_name_is_refused_at_once_in_the_words_of_python(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(SidewaysError, match=r"by resume='.*/it', replace it by overwrite=True, or choose"):
        module.train(ticks=1, data={"train": ".", "flip": 0}, runs=tmp_path, name="it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "there is no run.toml in it"), ({"overwrite": True}, "pass resume or overwrite, not both")],
)
def test_what_cannot_be_resumed_is_refused_in_the_words_of_python(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        module.train(resume=tmp_path, **arguments)


@pytest.mark.parametrize(
    ("run", "given", "message"),
    [
        ({"stages": 2}, {}, r"settings by keyword: train\(stages=2\)"),
        (None, {"stages": 2}, r'no data to train on: pass data={"train": "folder of videos"} or dataset=…'),
        (None, {"data": "videos/train"}, r'data = .videos/train. is no section of settings: pass data={"train": '),
        (None, {"data": {"train": "."}, "ticks": 1, "callbacks": 3}, r"callbacks must be a function, or a list"),
        (None, {"data": {"train": "."}, "ticks": 1, "callbacks": ["mine"]}, r"callbacks must be a function"),
        (None, {"data": {"train": "."}, "ticks": 1, "stage": 2}, r"unknown setting stage. Did you mean stages\?$"),
        (None, {"data": {"train": "."}, "ticks": 1, "model_args": {"norm": None}}, r"model_args.norm = None cannot be"),
    ],
)
def test_wrong_arguments_are_told_with_the_remedy(run: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        module.train(run, **given)
    assert error.value.__cause__ is None


class _Ended:
    """A run that has trained, and ends in order when it is stopped."""

    code = 0

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        run = Path(tomllib.loads(Path(arguments[0]).read_text())["runs"]) / "it"
        run.mkdir()
        (run / "metrics.jsonl").write_text('{"kind": "progress", "stage": 0, "tick": 7, "time": 9e9, "loss": 1.5}\n')
        (run / "summary.json").write_text('{"ticks": 8}')
        (folder / "directory").write_text(json.dumps(str(run)) + "\n")

    def wait(self, meanwhile: Callable[[], None]) -> None:
        try:
            meanwhile()
        except BaseException:
            self.code = 130
            raise


def test_a_callback_stops_the_training_and_the_result_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        raise sideways.Stop

    monkeypatch.setattr(module, "RunProcess", _Ended)
    result = sideways.train(ticks=9, data={"train": ".", "flip": 0}, runs=str(tmp_path), callbacks=stop)
    assert (result.directory, result.summary) == (tmp_path / "it", {"ticks": 8})
    assert result.curves["loss"].tolist() == [[7, 1.5]]
