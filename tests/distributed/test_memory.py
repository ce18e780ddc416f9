"""Models that remember earlier frames, or have skips, through a whole run and the tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.tools.trained_model import open_model
from tests.support.processes import sideways
from tests.support.settings import settings, write_run_file

KINDS = ["run", pytest.param("skipping", marks=pytest.mark.long), pytest.param("far", marks=pytest.mark.long)]


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with motion in its first stage and two evaluations."""
    return trained_run(videos, tmp_path_factory.mktemp("memory"), "motion", probe={"every": 20})


@pytest.fixture(scope="module")
def skipping(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with skips, and memory in every stage."""
    return trained_run(videos, tmp_path_factory.mktemp("skips"), "shift", skips=[[0, 2], [1, 3], [0, 3]], stages=4)


@pytest.fixture(scope="module")
def far(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with edges of several ticks, over gloo."""
    edges = {"edge_ticks": [2, 1, 3], "transport": "gloo"}
    folder = tmp_path_factory.mktemp("far")
    return trained_run(videos, folder, "shift", skips=[[0, 2], [1, 3], [0, 3]], stages=4, network=edges)


def trained_run(videos: Path, folder: Path, temporal: str, **changes: Any) -> Path:
    stages = {"stages": 3, **changes}
    split = {3: [2, 3, 3], 4: [2, 2, 2, 2]}[stages["stages"]]
    model = {"model_args": {"width": 4, "temporal": temporal}, "split": split, **stages}
    tree = settings(videos, **model, data__val=str(videos / "val"), ticks=60, evaluate_every=30, answer=2, name="it")
    done = sideways("train", write_run_file(folder / "run.toml", tree), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "summary.json").write_text(done.stdout.splitlines()[-1])
    return folder / "runs" / "it"


@pytest.mark.parametrize("kind", KINDS)
def test_eval_plays_clips_in_order_as_the_trainings_own_evaluation_does(
    kind: str, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(kind)
    done = sideways("eval", run, "--json", cwd=run.parent.parent)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    summary = json.loads((run.parent.parent / "summary.json").read_text())
    assert (figures["top1"], figures["top5"]) == (summary["val_top1"], summary["val_top5"])


@pytest.mark.parametrize("kind", KINDS)
def test_predict_plays_a_video_in_order(kind: str, videos: Path, request: pytest.FixtureRequest) -> None:
    """And the exported program gives the same for the frames of the whole clip at once."""
    import torch

    from coordinator.tools.predict import clip_scores, predict_clips

    run: Path = request.getfixturevalue(kind)
    video, trained = videos / "val/bee/1.mp4", open_model(run)
    in_order = torch.cat(list(clip_scores(trained, video)))
    total = in_order[2].clone()  # answer = 2
    for scores in in_order[3:]:
        total += scores
    assert torch.equal(predict_clips(trained, video).total, total)
    done = sideways("export", run, "out.pt2", cwd=run)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(predict_clips(open_model(run / "out.pt2"), video).total, total, rtol=1e-5, atol=1e-6)
    refused = sideways("eval", "out.pt2", videos / "val", cwd=run)
    assert refused.returncode == 2
    assert "takes the frames of a whole clip at once" in " ".join(refused.stderr.split())


def test_a_probe_compares_with_what_the_stages_remembered(run: Path) -> None:
    probes = [
        line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["kind"] == "probe"
    ]
    assert probes
    assert all(line["stages"][-1]["cosine"] == pytest.approx(1, abs=1e-5) for line in probes)
