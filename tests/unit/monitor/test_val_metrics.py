"""Figures of torchmetrics, and the user's own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import common.torchvision_import  # noqa: F401  makes torchvision importable, which torchmetrics imports
from common.errors import ConfigError
from common.rule.clip_sums import Scores
from common.rule.tasks.classification import Classification
from common.rule.tasks.multilabel import MultiLabel
from common.rule.tasks.regression import Regression
from common.rule.tasks.task import Task
from coordinator.monitor.evaluation_scores import evaluator
from coordinator.monitor.val_metrics import metrics_of

CLASSIFY, SEVERAL, NUMBERS = Classification(3, F.cross_entropy), MultiLabel(3, F.mse_loss), Regression(3, F.mse_loss)
OWN = """
def spread(answers, labels):
    return answers.std()

def by_clip(answers, labels, clips):
    return {"clips": len(clips.unique()), "largest": answers.max()}

def breaks(answers, labels):
    raise ValueError("oops")

def above(answers, labels, threshold=0.5):
    return (answers > threshold).double().mean()
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(OWN)
    return str(tmp_path / "mine.py")


def scores_of(task: Task) -> Scores:
    torch.manual_seed(0)
    values, count = torch.rand(40, 3).double(), torch.ones(40, dtype=torch.int64)
    labels = torch.randint(0, 3, (40,)) if task is CLASSIFY else (values + torch.rand(40, 3) > 1).float()
    return Scores(torch.arange(40) // 2, labels, count, values)


def figures(task: Task, *settings: Any) -> dict[str, float]:
    found = evaluator(task, metrics_of(settings, task, 3)).evaluate(scores_of(task))
    assert not found.problems
    return found.figures


def test_torchmetrics_by_name() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score, multilabel_auroc
    from torchmetrics.functional.regression import spearman_corrcoef

    scores = scores_of(CLASSIFY)
    micro = {"metric": "MulticlassF1Score", "average": "micro"}
    found = figures(CLASSIFY, "MulticlassF1Score")["multiclass_f1_score"]
    assert found == pytest.approx(float(multiclass_f1_score(scores.sums, scores.labels, 3)))
    assert figures(CLASSIFY, micro)["multiclass_f1_score"] == pytest.approx(figures(CLASSIFY)["top1"])
    assert figures(CLASSIFY, "F1Score")["f1_score"] == pytest.approx(figures(CLASSIFY)["top1"])
    scores = scores_of(SEVERAL)
    expected = float(multilabel_auroc(scores.sums, scores.labels.long(), 3))
    assert figures(SEVERAL, "MultilabelAUROC")["multilabel_auroc"] == pytest.approx(expected)
    scores = scores_of(NUMBERS)
    expected = float(spearman_corrcoef(scores.sums.float(), scores.labels).mean())
    assert figures(NUMBERS, "SpearmanCorrCoef")["spearman_corr_coef"] == pytest.approx(expected)


def test_ones_own_functions(own: str) -> None:
    found = figures(NUMBERS, f"{own}:spread", f"{own}:by_clip")
    assert found["spread"] == pytest.approx(float(scores_of(NUMBERS).sums.std()))
    assert (found["clips"], found["largest"] > 0.9) == (20, True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("MulticlassF2Score", "torchmetrics has no class MulticlassF2Score"),
        ({"metric": "MulticlassF1Score", "mean": 1}, "cannot be made with .*Its parameters: num_classes"),
        ({"average": "micro"}, "names no metric"),
        ("mine.py:nothing", "val_metrics = .* has no function nothing"),
    ],
)
def test_an_unknown_metric_is_an_error(own: str, setting: Any, message: str) -> None:
    setting = setting.replace("mine.py", own) if isinstance(setting, str) else setting
    with pytest.raises(ConfigError, match=message):
        metrics_of([setting], CLASSIFY, 3)


def test_a_metric_that_fails_costs_only_its_figure(own: str) -> None:
    found = evaluator(CLASSIFY, metrics_of([f"{own}:breaks"], CLASSIFY, 3)).evaluate(scores_of(CLASSIFY))
    assert list(found.problems) == ["val_metrics: breaks fails: ValueError: oops (mine.py, line 9)"]
    assert "top1" in found.figures


def test_two_figures_have_two_names(own: str) -> None:
    first, second = ({"metric": "MultilabelF1Score", "threshold": threshold} for threshold in (0.3, 0.7))
    with pytest.raises(ConfigError, match="there are two figures 'multilabel_f1_score': give one a name of its own"):
        metrics_of([first, second], SEVERAL, 3)
    found = figures(SEVERAL, first, {**second, "name": "f1_at_07"})
    assert found["multilabel_f1_score"] != found["f1_at_07"]
    twice = [{"metric": f"{own}:above", "threshold": threshold} for threshold in (0.3, 0.7)]
    evaluation = evaluator(CLASSIFY, metrics_of(twice, CLASSIFY, 3)).evaluate(scores_of(CLASSIFY))
    assert evaluation.problems == [
        "val_metrics: above gives a figure 'above', but there is another of that name: give it another name"
    ]
    assert evaluation.figures["above"] == figures(CLASSIFY, twice[0])["above"]


def test_torchmetrics_is_imported_only_where_it_is_named(own: str) -> None:
    code = (
        "import sys; from argparse import Namespace; from coordinator.monitor.val_metrics import metrics_of;"
        f" metrics_of(['{own}:spread'], Namespace(names=[]), 3); sys.exit('torchmetrics' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0


def test_the_best_checkpoint_is_chosen_by_a_figure(own: str) -> None:
    metrics = metrics_of(["MulticlassCalibrationError", "MulticlassF1Score"], CLASSIFY, 3)
    scores = scores_of(CLASSIFY)
    for best, sign, name in (
        (None, 1, "top1"),
        ("val_mean_class", 1, "mean_class"),
        ("-val_top5", -1, "top5"),
        ("multiclass_f1_score", 1, "multiclass_f1_score"),
        ("val_multiclass_calibration_error", -1, "multiclass_calibration_error"),
    ):
        found = evaluator(CLASSIFY, metrics, best).evaluate(scores)
        assert found.score == sign * found.figures[name]
        assert evaluator(CLASSIFY, metrics, best).figure == f"{'-' if sign < 0 else ''}val_{name}"
    with pytest.raises(
        ConfigError, match=r'checkpoint.best = "val_map" is not a figure of this run: val_top1, val_top5'
    ):
        evaluator(CLASSIFY, metrics, "val_map")
    named = metrics_of([f"{own}:by_clip"], NUMBERS, 3)
    assert (
        evaluator(NUMBERS, named, "-largest").evaluate(scores_of(NUMBERS)).score
        == -figures(NUMBERS, f"{own}:by_clip")["largest"]
    )
    found = evaluator(NUMBERS, named, "val_none").evaluate(scores_of(NUMBERS))
    assert found.score is None
    assert "this evaluation has no val_none (checkpoint.best), but mse, mae, r2, clips, largest" in found.problems


def test_an_option_of_ones_own_function_is_not_taken_for_the_clips(own: str) -> None:
    expected = (scores_of(NUMBERS).sums > 0.5).double().mean()
    assert figures(NUMBERS, f"{own}:above")["above"] == pytest.approx(float(expected))
    assert figures(NUMBERS, {"metric": f"{own}:above", "threshold": -1e9})["above"] == 1
