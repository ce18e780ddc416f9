"""Faults at an exact stage and tick in real processes: they are reported, and recovery does not change the results."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.oracles import losses_of, same_model
from tests.support.processes import sideways, train
from tests.support.settings import settings, write_run_file

MODEL = f"{Path(__file__).parents[1]}/support/models.py:fail_at"


def run_of(videos: Path, stage: int, tick: int, how: str, marker: str = "", **changes: Any) -> dict[str, Any]:
    """The settings of a run that fails at a stage and tick."""
    arguments = {"stage": stage, "tick": tick, "how": how, "marker": marker}
    model = {"model": MODEL, "model_args": arguments, "split": [2, 2, 2], "stages": 3, "name": "it", "ticks": 60}
    return settings(videos, **{**model, "network__deadline": 4, **changes})


@pytest.mark.parametrize(
    ("stage", "tick", "how", "message"),
    [
        (1, 17, "raise", "stage 1, tick 17: ValueError: this block fails on purpose"),
        pytest.param(2, 2, "raise", "stage 2, tick 2: ValueError: this block fails", marks=pytest.mark.long),
        pytest.param(1, 23, "kill", r"stage 1.* was killed by SIGKILL", marks=pytest.mark.long),
        pytest.param(2, 30, "hang", r"stage 1, tick 3\d, .* stage 2: no progress for", marks=pytest.mark.long),
    ],
)
def test_a_fault_is_reported_with_its_stage_and_tick(
    videos: Path, tmp_path: Path, stage: int, tick: int, how: str, message: str
) -> None:
    done = sideways("train", write_run_file(tmp_path / "run.toml", run_of(videos, stage, tick, how)), cwd=tmp_path)
    assert done.returncode != 0
    assert re.search(message, " ".join(done.stderr.split())), done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "tick", "how"),
    [(1, 1, "kill"), (1, 19, "kill"), (2, 20, "kill"), (1, 21, "kill"), (2, 59, "kill"), (2, 40, "hang")],
)
def test_a_run_recovers_bit_for_bit_from_a_fault_at_any_tick(
    videos: Path, tmp_path: Path, stage: int, tick: int, how: str
) -> None:
    """Before, at and after a checkpoint, and near the first and last tick."""
    marker = tmp_path / "failed"
    rule = {"rule__auxiliary": 0.3, "rule__auxiliary_until": 1.0, "skips": [[0, 2]]}
    changes = {"checkpoint__every": 20, "recovery__restarts": 3, **rule}
    tree = run_of(videos, stage, tick, how, str(marker), **changes)
    recovered = train(tmp_path / "recovered", tree)
    assert marker.exists()
    undisturbed = train(tmp_path / "undisturbed", tree)
    assert losses_of(recovered) == losses_of(undisturbed)
    assert same_model(recovered, undisturbed)
