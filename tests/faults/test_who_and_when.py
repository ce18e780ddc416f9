"""Each process of a run dies at each moment that differs: the run ends as an undisturbed one, bit for bit.

The table of all of them, with those that other tests have, is in docs/promises.md.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.config.run_file import parse
from tests.support.models import process_of
from tests.support.oracles import losses_of, replicated_run
from tests.support.processes import Background
from tests.support.settings import settings, write_run_file
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long

MODEL = f"{Path(__file__).parents[1]}/support/models.py:kills_another"
TICKS = 60
MOMENTS = {
    "first tick": "training 0",
    "warm-up": "training 1",  # the bottom stage of two has its first gradient at tick 2
    "mid-clip": "training 30",
    "evaluation": "evaluation",
    "checkpoint": "training 20",  # that of tick 20 is being written
    "recovery": "training -1",  # not by a stage
}
EACH = {
    "coordinator": ["first tick", "warm-up", "evaluation", "checkpoint", "recovery"],
    "stage1": ["evaluation"],
    "stage3": ["first tick", "warm-up", "evaluation", "checkpoint", "recovery"],  # of the second replica
    "reader1": ["first tick", "warm-up", "evaluation", "checkpoint", "recovery"],
    "decoder of reader1": ["first tick", "warm-up", "mid-clip", "checkpoint"],
    "decoder of coordinator": ["evaluation"],
    "redis": ["first tick", "warm-up", "evaluation", "checkpoint", "recovery"],
}
CELLS = [(who, moment) for who, moments in EACH.items() for moment in moments]


def tree_of(videos: Path, who: str, moment: str, marker: Path) -> dict[str, Any]:
    """Two replicas of two stages, each with a reader; an evaluation and a checkpoint every 20 ticks."""
    arguments = {"who": who, "moment": MOMENTS[moment], "marker": str(marker)}
    model = {"model": MODEL, "model_args": arguments, "split": [3, 3], "stages": 2, "replicas": 2, "ticks": TICKS}
    data = {"data__slots": 4, "data__readers": 2, "data__threads": 1, "data__val": str(videos / "val")}
    often = {"evaluate_every": 20, "checkpoint__every": 20, "recovery__restarts": 5, "report__every": 0.05}
    return settings(videos, **model, **data, **often, network__deadline=6, report__redis=True, name="it")


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[float]], dict[str, Tensor]]:
    """Each replica's losses, and the parameters, of the one-process reference."""
    torch.set_num_threads(1)  # as the stages have
    marker = tmp_path_factory.mktemp("undisturbed") / "marker"
    expected = replicated_run(parse(tree_of(videos, "redis", "first tick", marker), "test"))
    assert not marker.exists()
    return expected


@pytest.mark.parametrize(("who", "moment"), CELLS)
def test_whoever_dies_whenever_the_run_ends_as_an_undisturbed_one(
    videos: Path, tmp_path: Path, undisturbed: tuple[list[list[float]], dict[str, Tensor]], who: str, moment: str
) -> None:
    marker = tmp_path / "killed"
    run = Background(write_run_file(tmp_path / "run.toml", tree_of(videos, who, moment, marker)))
    if moment == "recovery":
        kill_during_a_recovery(run, who)
    assert run.end(150) == 0, run.output()
    assert marker.exists() or moment == "recovery", run.output()
    losses, parameters = undisturbed
    assert [losses_of(tmp_path / "runs/it", replica) for replica in range(2)] == losses, run.output()
    trained = load_file(tmp_path / "runs/it/model.safetensors")
    assert not [name for name in parameters if not torch.equal(trained[name], parameters[name])]
    restarts = json.loads((tmp_path / "runs/it/summary.json").read_text())["restarts"]
    lasting = who == "redis" or who.startswith("decoder")
    assert restarts == (0 if lasting else 1) + (moment == "recovery"), run.output()


def kill_during_a_recovery(run: Background, who: str) -> None:
    """Kill a stage, and then a process of the next attempt as soon as it is there."""
    run.wait_for_tick(25)
    before = run.members()
    process_of(run.process.pid, "stage1").kill()
    wait_until(lambda: run.members().get(who) not in (None, before[who]), 60)
    process_of(run.process.pid, who).kill()
