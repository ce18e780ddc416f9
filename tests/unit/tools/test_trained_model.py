"""A trained model is opened, exported, looks at a video and is evaluated: always the same numbers."""

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from common.config.settings import Config
from common.errors import ConfigError, DataError, SidewaysError
from common.models import build
from coordinator.monitor.evaluation_scores import Evaluation, evaluation_of
from coordinator.run_directory import MODEL, RunDirectory
from coordinator.tools import evaluate as assess
from coordinator.tools.export import export
from coordinator.tools.predict import ClipPrediction, predict_clips, timeline, tree
from coordinator.tools.trained_model import TrainedModel, open_model
from coordinator.video.decoding.augment import middle
from coordinator.video.decoding.reader import read
from coordinator.video.files.clips import collect
from tests.support.settings import config_of
from tests.support.videos import video_stream, write_clip

CLASSES = ["ant", "bee", "cat"]


def saved(folder: Path, config: Config, classes: list[str] = CLASSES) -> Path:
    """A run directory, its model untrained."""
    run = folder / "run"
    run.mkdir(parents=True)
    directory = RunDirectory(run)
    directory.save_config(config)
    model = build(config, len(classes))
    directory.save_model(model.state_dict(), config, classes)
    return run


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("trained"), config_of(videos, data__val=str(videos / "val"), data__stride=2))


def by_hand(config: Config, video: Path) -> torch.Tensor:
    """Softmax of every frame, float64 [n, classes], with nothing of the code under test."""
    data, model = config.data, build(config, 3).eval()
    pixels = np.concatenate(list(read(video, data.stride, data.short_side, data.channels)))
    frames = torch.from_numpy(middle(pixels, data.size)(pixels))
    with torch.no_grad():
        return model((frames / 255 - data.mean) / data.std).double().softmax(1)


def test_a_run_and_what_it_exports_give_the_same(run: Path, videos: Path, tmp_path: Path) -> None:
    video = videos / "val/bee/1.mp4"
    expected = by_hand(config_of(videos, data__stride=2), video)
    for name in ("out.safetensors", "out.pt2"):
        assert export(run, tmp_path / name) == 23
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt2", "out.safetensors"]
    for model in (run, run / MODEL, tmp_path / "out.safetensors", tmp_path / "out.pt2"):
        trained = open_model(model)
        assert (trained.classes, trained.task, trained.data.stride) == (CLASSES, "classify", 2)
        torch.testing.assert_close(predict_clips(trained, video).total, expected.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "task"),
    [("autoencoder", "autoencode"), ("resnet18", "classify"), ("mobilenet_v3_large", "classify")],
)
def test_a_program_takes_any_number_of_frames(tmp_path: Path, videos: Path, model: str, task: str) -> None:
    config = config_of(videos, model=model, task=task, model_args={}, data__size=32, stages=1, split=[1])
    run = saved(tmp_path, config)
    export(run, tmp_path / "out.pt2")
    program = torch.export.load(tmp_path / "out.pt2")
    assert set(program.state_dict) == set(build(config, 3).state_dict())
    frames = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(open_model(tmp_path / "out.pt2")(frames), open_model(run)(frames), rtol=1e-3, atol=1e-4)


def test_a_transformer_too(tmp_path: Path, videos: Path) -> None:
    from common.models.chain import Chain
    from coordinator.tools.export import _write_program

    config = config_of(videos, model="vit_b_16", model_args={}, data__size=32, stages=1, split=[1])
    whole = build(config, 3)
    assert isinstance(whole, Chain)
    small = whole.take(["tokens", "encoder_layer_0", "head"]).eval()  # 9 of its 86 million weights
    torch.nn.init.normal_(small.get_parameter("heads.head.weight"))
    about = {"model": "vit_b_16", "model_args": "{}", "task": "classify", "classes": '["a", "b", "c"]'}
    about["data"] = '{"size": 32}'
    trained = TrainedModel(tmp_path, small, "classify", ["a", "b", "c"], config.data, 0, about)
    _write_program(trained, tmp_path / "out.pt2")
    frames = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(open_model(tmp_path / "out.pt2")(frames), trained(frames), rtol=1e-3, atol=1e-4)


def test_a_program_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.tools.export._close", lambda expected, found: False)
    with pytest.raises(SidewaysError, match=r"the exported program differs from the model by"):
        export(run, tmp_path / "out.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_trace_is_told(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x): return x * 2 if float(x.sum()) > 0 else x\n"
        "def build(classes): return nn.Sequential(nn.Flatten(), Odd(), nn.Linear(768, classes))\n"
    )
    config = config_of(videos, model=f"{tmp_path / 'mine.py'}:build", model_args={}, stages=1, split=[3])
    run = saved(tmp_path, config)
    with pytest.raises(SidewaysError, match=r"torch.export cannot make a program of .*Export a .safetensors file"):
        export(run, tmp_path / "out.pt2")
    (tmp_path / "mine.py").unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*mine.py"):
        open_model(run)


def test_another_ending_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in .safetensors .* or .pt2"):
        export(run, tmp_path / "out.onnx")
    with pytest.raises(SidewaysError, match=r"cannot write .*No such file"):
        export(run, tmp_path / "missing/out.safetensors")


def test_missing_and_damaged_models_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SidewaysError, match="does not exist"):
        open_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SidewaysError, match="that has saved its model"):
        open_model(tmp_path / "empty")
    whole = (run / MODEL).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SidewaysError, match=r"half.safetensors is damaged"):
        open_model(tmp_path / "half.safetensors")
    (tmp_path / "half.pt2").write_bytes(whole[:1000])
    with pytest.raises(SidewaysError, match=r"half.pt2 is no program"):
        open_model(tmp_path / "half.pt2")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(SidewaysError, match=r"does not say its model, model_args, task, classes, data"):
        open_model(tmp_path / "foreign.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"a run directory, a .safetensors or a .pt2 file"):
        open_model(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [("data", "{"), ("data", '{"size": -1}'), ("classes", '"ant"'), ("task", "fly"), ("model_args", "[]")],
)
def test_a_description_that_makes_no_sense_is_told(run: Path, tmp_path: Path, key: str, value: str) -> None:
    with safe_open(run / MODEL, "pt") as file:
        about = {**file.metadata(), key: value}
    save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", about)
    with pytest.raises(SidewaysError, match="describes itself in a way that this version does not know"):
        open_model(tmp_path / "odd.safetensors")


def test_weights_of_another_model_are_told(run: Path, tmp_path: Path) -> None:
    with safe_open(run / MODEL, "pt") as file:
        save_file({"x": torch.zeros(1)}, tmp_path / "odd.safetensors", file.metadata())
    with pytest.raises(ConfigError, match=r"does not fit model = 'vgg8'"):
        open_model(tmp_path / "odd.safetensors")


# ---- predict


def test_what_is_seen_in_a_video(run: Path, videos: Path, tmp_path: Path) -> None:
    video = videos / "val/cat/1.mp4"
    expected = by_hand(config_of(videos, data__stride=2), video)
    seen = predict_clips(open_model(run), video, tmp_path / "scores.csv")
    assert [best for best, _ in seen.best] == expected.argmax(1).tolist()
    assert [name for name, _ in seen.top()] == [CLASSES[i] for i in expected.mean(0).argsort(descending=True)]
    header, *rows = csv.reader((tmp_path / "scores.csv").read_text().splitlines())
    assert header == ["frame", *CLASSES]
    assert [int(row[0]) for row in rows] == list(range(0, 2 * len(expected), 2))
    np.testing.assert_allclose([[float(x) for x in row[1:]] for row in rows], expected, atol=1e-5)
    said = tree(seen, video)
    assert said["frames"] == len(expected)
    assert [sorted(entry) for entry in said["timeline"]] == [["class", "first", "last", "score"]] * len(
        said["timeline"]
    )
    json.dumps(said)


def test_a_folder_of_frames_is_looked_at(run: Path, videos: Path, tmp_path: Path) -> None:
    """As the video that its pictures were taken from, without loss."""
    video, folder = videos / "val/cat/1.mp4", tmp_path / "frames"
    folder.mkdir()
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            with av.open(str(folder / f"img_{number}.png"), "w", format="image2") as picture:
                stream = video_stream(picture, "png", 1)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "rgb24"
                picture.mux([*stream.encode(frame.reformat(format="rgb24")), *stream.encode()])
    trained = open_model(run)
    seen, expected = predict_clips(trained, folder), predict_clips(trained, video)
    assert len(seen.best) == len(expected.best)
    torch.testing.assert_close(seen.total, expected.total, atol=0.05, rtol=0)
    shutil.copy(folder / "img_0.png", folder / "flow_x_0.png")
    with pytest.raises(DataError, match=r"2 kinds of names.*set --frame-files to one"):
        predict_clips(trained, folder)
    assert len(predict_clips(trained, folder, frame_files="img_*").best) == len(expected.best)
    with pytest.raises(DataError, match=r"holds no frames that match 'jpg_\*'"):
        predict_clips(trained, folder, frame_files="jpg_*")


def test_classes_that_are_no_utf_8(videos: Path, tmp_path: Path) -> None:
    """Bytes of a folder's name, in tables and pictures."""
    classes = ["ant", "caf\udce9", "cat"]
    trained = open_model(saved(tmp_path / "odd", config_of(videos, data__stride=2), classes))
    assert trained.classes == classes
    predict_clips(trained, videos / "val/cat/1.mp4", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes().startswith(b"frame,ant,caf\xe9,cat")
    confusion = Evaluation(1, 1, confusion=torch.eye(3, dtype=torch.int64))
    table, picture = assess.write_confusion(confusion, classes, tmp_path)
    assert b"\ncaf\xe9,0,1,0" in table.read_bytes().replace(b"\r", b"")
    assert picture.is_file()


def seen_with(best: list[int], stride: int = 1) -> ClipPrediction:
    return ClipPrediction(CLASSES, stride, torch.ones(3), [(name, 0.5) for name in best])


def test_the_timeline_joins_frames_of_one_class() -> None:
    found = timeline(seen_with([0] * 4 + [2] * 3 + [0] * 2, stride=3))
    assert [(part.name, part.first, part.last) for part in found] == [("ant", 0, 9), ("cat", 12, 18), ("ant", 21, 24)]
    assert [len(part.bars) for part in found] == [4, 3, 2]
    assert {part.score for part in found} == {0.5}


def test_the_timeline_of_a_long_video_stays_short() -> None:
    found = timeline(seen_with([number % 2 if number < 5000 else 2 for number in range(10_000)]))
    assert sum(len(part.bars) for part in found) == 60
    assert (found[0].first, found[-1].last, found[-1].name) == (0, 9_999, "cat")
    assert all(after.first == before.last + 1 for before, after in pairwise(found))


def test_what_cannot_be_looked_at_is_told(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text.mp4"):
        predict_clips(trained, tmp_path / "text.mp4", tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()
    with pytest.raises(SidewaysError, match=r"cannot write .*No such file"):
        predict_clips(trained, videos / "val/cat/1.mp4", tmp_path / "missing/scores.csv")
    config = config_of(videos, model="autoencoder", task="autoencode")
    with pytest.raises(ConfigError, match=r"it gives frames, not classes. `sideways eval` measures its error"):
        predict_clips(open_model(saved(tmp_path, config)), videos / "val/cat/1.mp4")


# ---- eval


def test_the_evaluation_is_the_mean_over_frames_of_each_clip(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    data = assess.data_for(trained, run, None, "*")
    clips = assess.find_clips(trained, data)
    scores, _ = assess.score(trained, clips, data)
    expected = [by_hand(config_of(videos, data__stride=2), clip.path).mean(0) for clip in clips.clips]
    torch.testing.assert_close(scores.sums / scores.frames[:, None], torch.stack(expected), rtol=1e-5, atol=1e-6)
    evaluation = evaluation_of(scores, "classify")
    assert evaluation.clips == 6
    right = [int(mean.argmax()) == clip.label for mean, clip in zip(expected, clips.clips, strict=True)]
    assert assess.figures(evaluation) == {
        "top1": pytest.approx(np.mean(right)),
        "top5": 1.0,
        "mean_class": pytest.approx(np.mean(right)),  # two clips of each class
        "clips": 6,
    }
    table, picture = assess.write_confusion(evaluation, CLASSES, tmp_path / "new")
    header, *rows = csv.reader(table.read_text().splitlines())
    assert header[1:] == [row[0] for row in rows] == CLASSES
    assert sum(int(row[1 + i]) for i, row in enumerate(rows)) == sum(right)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_other_clips_and_a_pattern(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    data = assess.data_for(trained, run, videos / "train", "bee/*")
    assert [clip.path.parent.name for clip in assess.find_clips(trained, data).clips] == ["bee"] * 3
    write_clip(tmp_path / "new/dog/1.mp4", 5)
    data = assess.data_for(trained, run, tmp_path / "new", "*")
    with pytest.raises(DataError, match="dog"):
        assess.find_clips(trained, data)
    with pytest.raises(ConfigError, match="does not say what to evaluate on"):
        assess.data_for(trained, tmp_path / "out.safetensors", None, "*")


@pytest.mark.parametrize(("task", "ahead"), [("autoencode", 0), ("predict", 3)])
def test_frames_are_compared_with_the_frame_they_stand_for(tmp_path: Path, videos: Path, task: str, ahead: int) -> None:
    changes: dict[str, Any] = {"ahead": ahead} if ahead else {}
    config = config_of(videos, model="autoencoder", task=task, data__val=str(videos / "val"), **changes)
    run = saved(tmp_path, config, ["video"])
    trained = open_model(run)
    data = assess.data_for(trained, run, None, "*")
    scores, _ = assess.score(trained, assess.find_clips(trained, data), data)
    errors = []
    for clip in collect(config.data, "val", labelled=False).clips:
        frames = np.concatenate(list(read(clip.path, 1, config.data.short_side, 3)))
        x = trained.normalised(torch.from_numpy(middle(frames, config.data.size)(frames)))
        with torch.no_grad():
            y = trained.module(x)
        errors.append(float((y[: len(x) - ahead] - x[ahead:]).pow(2).mean()))
    assert evaluation_of(scores, trained.task).mse == pytest.approx(np.mean(errors), rel=1e-5)
