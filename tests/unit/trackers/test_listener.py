"""A tracker gets what TensorBoard gets, and neither its errors nor its pace reach the run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from common.config.run_file import parse
from common.errors import ConfigError
from common.partition.balance import BlockCost
from coordinator.trackers import listener, tracker
from coordinator.trackers.listener import TrackerListener
from tests.support.reports import evaluation_event, progress_event

CONFIG = parse({"ticks": 9, "optimiser": {"lr": 2e-3}, "data": {"train": "videos"}}, "test")


class Recorder:
    """A tracker that notes what it is told. `wait`: called before each call."""

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.where, self.calls, self._wait = "nowhere", list[Any](), wait

    def curves(self, figures: dict[str, float], tick: int) -> None:
        self._note("curves", figures, tick)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[tracker.Row], tick: int) -> None:
        self._note("table", name, list(columns), [list(row) for row in rows], tick)

    def close(self, state: str, files: Sequence[Path]) -> None:
        self._note("close", state, [file.name for file in files])

    def _note(self, *call: Any) -> None:
        self._wait()
        self.calls.append(call)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: list[str]) -> Callable[[Any], TrackerListener]:
    """Follow a run with this tracker, or with what opening it raises."""

    def follow(recorder: Any) -> TrackerListener:
        class Opened(tracker.Kind):
            def open(self, run: Path, settings: dict[str, Any]) -> Any:
                if isinstance(recorder, Exception):
                    raise recorder
                recorder.settings = settings
                return recorder

        monkeypatch.setitem(tracker.KINDS, "wandb", Opened("wandb", ("", ""), "be patient"))
        return TrackerListener("wandb", tmp_path, CONFIG, said.append, said.append)

    return follow


def test_it_gets_settings_curves_tables_and_files(
    follow: Callable[[Any], TrackerListener], tmp_path: Path, said: list[str]
) -> None:
    for name in ("model.safetensors", "run.toml"):
        (tmp_path / name).touch()
    recorder: Any = Recorder()
    followed = follow(recorder)
    followed.measured([BlockCost("stem", 1.5, 8, 100), BlockCost("head", 0.5, 1, 20)], [1, 1])
    line = {"kind": "progress", "stage": 2, "tick": 40, "tick_ms": 5.5, "loss": None, "losses": [1.0]}
    followed.progress(progress_event(line, stage=2, tick=40))
    followed.probed({"kind": "probe", "tick": 60, "stages": [{"stage": 0, "cosine": 0.5, "frames": None}]})
    confusion = torch.tensor([[3, 1], [0, 0]])
    followed.evaluated(evaluation_event(80, {"val_top1": 0.75}, confusion=confusion))
    followed.close("finished", "", 80)
    assert recorder.settings["optimiser.lr"] == 2e-3
    columns = ["block", "stage", "parameters", "forward + backward ms", "activation KiB"]
    assert recorder.calls == [
        ("table", "partition", columns, [["stem", 0, 100, 1.5, 8], ["head", 1, 20, 0.5, 1]], 0),
        ("curves", {"stage 2/tick_ms": 5.5}, 40),
        ("curves", {"probe 0/cosine": 0.5}, 60),
        ("curves", {"evaluation/val_top1": 0.75}, 80),
        ("table", "evaluation", ["class", "clips", "correct", "most often taken for"], [["ant", 4, 0.75, "b$e$e"]], 80),
        ("table", "confusion", ["true class", "ant", "b$e$e"], [["ant", 3, 1], ["b$e$e", 0, 0]], 80),
        ("close", "finished", ["model.safetensors", "run.toml"]),
    ]
    assert said == ["wandb: nowhere"]


@pytest.mark.parametrize("when", ["opening", "reporting"])
def test_an_error_gives_one_warning_with_a_remedy(
    follow: Callable[[Any], TrackerListener], said: list[str], when: str
) -> None:
    def fail() -> None:
        raise OSError("no route to host")

    followed = follow(OSError("no route to host") if when == "opening" else Recorder(fail))
    for tick in range(3):
        followed.progress(progress_event(tick=tick))
    followed.close("finished", "", 3)
    warnings = [text for text in said if text != "wandb: nowhere"]
    assert warnings == [
        "wandb gets no more reports: no route to host. The run continues without it; to have it, be patient"
    ]


def test_a_tracker_that_hangs_does_not_hold_up_the_run(
    follow: Callable[[Any], TrackerListener], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_BACKLOG", 2)
    monkeypatch.setattr(listener, "_EXIT", 0.5)
    answers = Event()
    followed = follow(Recorder(answers.wait))
    for tick in range(9):
        followed.progress(progress_event(tick=tick))
    start = time.monotonic()
    followed.close("stopped", "", 9)
    assert time.monotonic() < start + 0.9, "the limit is for all of it"
    answers.set()
    assert "wandb has not taken everything" in said[1]
    assert "wandb did not keep up" in said[2]


def test_a_tracker_that_is_not_installed_is_an_error_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracker.KINDS, "mlflow", tracker.Kind("nothing", ("no_such_module", "It"), ""))
    with pytest.raises(ConfigError, match=r"pip install 'sideways-video\[mlflow\]'"):
        tracker.check_importable(["mlflow"])
