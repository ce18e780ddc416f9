"""The model of the best evaluation."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sideways
from common.config.settings import Config
from common.errors import SidewaysError
from common.models import build
from common.rule.tasks import without_loss
from coordinator.monitor.evaluation_scores import Evaluation, evaluator
from coordinator.run.best_model import BestModel
from coordinator.run_directory import BEST, RunDirectory
from coordinator.tools.export import export
from tests.support.settings import config_of
from tests.support.trained import CLASSES


class Run:
    """A run directory whose models are known by one weight."""

    def __init__(self, path: Path, figure: str | None = None) -> None:
        self.directory = RunDirectory(path)
        self.config: Config = config_of(path)
        self.warnings: list[str] = []
        self.model = dict(build(self.config, 3).state_dict())
        self.judge = evaluator(without_loss(self.config, 3), (), figure)
        self.best = BestModel(self.directory, self.judge, self.warnings.append)

    def evaluated(self, tick: int, top1: float, write: bool = True) -> None:
        name = next(iter(self.model))
        self.model[name] = torch.full_like(self.model[name], tick)
        self.directory.save_model(self.model, self.config, CLASSES, tick)
        if write:
            self.directory.metric({"kind": "evaluation", "tick": tick, "val_top1": top1})
        score = -top1 if self.judge.smaller else top1
        self.best.evaluated(tick, Evaluation(9, 90, {"top1": top1}, score))

    def kept(self) -> float:
        return float(next(iter(load_file(self.directory.path / BEST).values())).flatten()[0])


@pytest.mark.parametrize(("figure", "tick", "value"), [(None, 20, 0.5), ("-val_top1", 10, 0.25)])
def test_the_best_evaluations_model_is_kept(figure: str | None, tick: int, value: float, tmp_path: Path) -> None:
    run = Run(tmp_path, figure)
    for at, top1 in ((10, 0.25), (20, 0.5), (30, 0.5), (40, 0.375)):
        run.evaluated(at, top1)
    assert (run.best.tick, run.best.value, run.kept(), run.warnings) == (tick, value, tick, [])
    assert not list(tmp_path.glob("*.part"))


def test_a_resumed_run_goes_on_from_it_if_it_still_has_that_evaluation(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.evaluated(10, 0.5)
    run.directory.close()
    again = Run(tmp_path)
    assert (again.best.tick, again.best.value) == (10, 0.5)
    again.evaluated(20, 0.25)
    assert again.kept() == 10
    again.evaluated(30, 0.75)
    again.directory.truncate_from(30, evaluated=False)
    again.directory.close()
    assert Run(tmp_path).best.tick is None


def test_it_is_loaded_and_exported(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.directory.save_model(run.model, run.config, CLASSES, 5)
    with pytest.raises(SidewaysError, match="a run keeps its best model if it evaluates clips"):
        sideways.load(tmp_path, best=True)
    run.evaluated(10, 0.5)
    run.evaluated(20, 0.25)
    export(tmp_path, tmp_path / "out.safetensors", best=True)
    for path, best, tick in ((tmp_path, True, 10), (tmp_path, False, 20), (tmp_path / "out.safetensors", False, 10)):
        weight = next(iter(sideways.load(path, best=best).module.state_dict().values()))
        assert float(weight.flatten()[0]) == tick


def test_a_full_disk_costs_only_the_best_model(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / BEST).mkdir()
    run.evaluated(10, 0.5)
    assert run.best.tick is None
    assert "the best model, of tick 10, could not be kept" in run.warnings[0]
