"""Sideways compared with backpropagation: probes of gradients, and `sideways compare`."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from common.config.run_file import load
from tests.support import traces
from tests.support.processes import sideways
from tests.support.settings import settings, write_run_file
from tests.support.videos import video_stream


def still_clips(root: Path) -> Path:
    """Four classes with one clip each, which repeats one image losslessly."""
    for number, label in enumerate(("ant", "bee", "cat", "dog")):
        picture = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        path = root / label / "still.mkv"
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = video_stream(container, "ffv1", 25)
            stream.width, stream.height, stream.pix_fmt = 24, 20, "bgr0"
            for _ in range(400):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return root


def probes(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "runs/it/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "probe"]


@pytest.mark.long
@pytest.mark.parametrize("task", ["classify", "autoencode"])
def test_on_still_clips_with_frozen_weights_pseudo_gradients_equal_backpropagations(tmp_path: Path, task: str) -> None:
    model = "vgg8" if task == "classify" else "autoencoder"
    changes: dict[str, Any] = {"task": task, "model": model, "optimiser__lr": 0.0, "probe__every": 20, "name": "it"}
    clips = still_clips(tmp_path / "clips")
    tree = settings(clips, stages=4, ticks=200, data__slots=4, data__flip=0.0, **changes)
    tree["data"]["train"] = str(clips)
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = probes(tmp_path)
    assert found
    for probe in found:
        assert [row["stage"] for row in probe["stages"]] == [0, 1, 2, 3]
        for row in probe["stages"]:
            assert row["cosine"] == pytest.approx(1, abs=1e-9)
            assert row["norm_ratio"] == pytest.approx(1, abs=1e-9)
            assert row["smoothness"] == 0
    assert "pseudo-gradients, by stage: cosine 1/1/1/1, norm ratio 1/1/1/1" in done.stderr


@pytest.mark.long
def test_on_moving_clips_only_the_top_stages_gradient_is_exact(videos: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"probe__every": 25, "name": "it", "rule__every": 2, "optimiser__ema": 0.9}
    changes |= {"data__size": 32, "model_args": {"width": 8}}
    tree = settings(videos, stages=3, ticks=250, **changes)
    done = sideways("train", write_run_file(tmp_path / "run.toml", tree), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = probes(tmp_path)
    assert found
    for probe in found:
        top = probe["stages"][-1]
        # the second of two accumulated gradients is computed by subtracting the first, which rounds in float32
        assert top["cosine"] == pytest.approx(1, abs=1e-5)
        assert top["norm_ratio"] == pytest.approx(1, abs=1e-5)
    # rows of other clips are gated: a gradient may be zero, and then has no cosine
    assert any(row["cosine"] is not None and row["cosine"] < 0.999 for probe in found for row in probe["stages"][:-1])
    changes_seen = [row["smoothness"] for probe in found for row in probe["stages"] if row["smoothness"] is not None]
    assert min(changes_seen) >= 0
    assert median(changes_seen) > 0.1  # two consecutive frames of these slow clips may be equal


@pytest.mark.long
def test_compare_writes_a_table_a_figure_and_traces(videos: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data__val": str(videos / "val"),
        "evaluate_every": 20,
        "data__slots": 4,
        "report__trace_ticks": 10,
    }
    tree = settings(videos, stages=2, ticks=40, name="both", **changes)
    del tree["split"]  # measured by the first run, and reused by the others
    run_file = write_run_file(tmp_path / "run.toml", tree)
    done = sideways("compare", run_file, "--algorithms", "sideways, 1f1b", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "both"
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["outcomes"] == json.loads((folder / "compare.json").read_text())
    for name, outcome in zip(("sideways", "1f1b"), printed["outcomes"], strict=True):
        assert outcome["algorithm"] == name
        assert outcome["ticks"] == 40
        assert [point[0] for point in outcome["curve"]] == [80, 160]
        assert outcome["curve"][-1][2] == outcome["score"]
        assert len(outcome["peak_memory_mib"]) == 2
        assert min(outcome["peak_memory_mib"]) > 0
        assert f"| {name} | " in (folder / "compare.md").read_text()
    assert load(folder / "sideways" / "run.toml").split == load(folder / "1f1b" / "run.toml").split
    traces.check(traces.read(folder / "sideways" / "trace.json.gz"), 4, 10)
    rows = traces.slices(traces.read(folder / "1f1b" / "trace.json.gz"))
    for name in ("forward", "backward"):  # with two micro-batches each
        found = [[e["args"]["micro_batch"] for e in rows[process] if e["name"] == name] for process in (2, 3)]
        assert found == [[0, 1] * 10] * 2
    with Image.open(folder / "compare.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


@pytest.mark.parametrize(
    ("algorithms", "message"),
    [("sideways,bp", "'bp' is unknown"), ("gpipe", "name two or more"), ("", "name two or more")],
)
def test_compare_rejects_unknown_or_too_few_algorithms(
    videos: Path, tmp_path: Path, algorithms: str, message: str
) -> None:
    run_file = write_run_file(tmp_path / "run.toml", settings(videos))
    done = sideways("compare", run_file, "--algorithms", algorithms, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
