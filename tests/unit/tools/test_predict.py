"""Predictions on videos."""

import csv
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from common.errors import ConfigError, DataError, SidewaysError
from coordinator.monitor.evaluation_scores import Evaluation
from coordinator.tools import evaluate as assess
from coordinator.tools.predict import ClipPrediction, predict_clips, show, timeline, tree
from coordinator.tools.trained_model import open_model
from tests.support.settings import config_of
from tests.support.trained import CLASSES, by_hand, saved
from tests.support.videos import video_stream


def test_predictions_equal_the_models_softmax(run: Path, videos: Path, tmp_path: Path) -> None:
    video = videos / "val/cat/1.mp4"
    expected = by_hand(config_of(videos, data__stride=2), video)
    seen = predict_clips(open_model(run), video, tmp_path / "scores.csv")
    assert [best for best, _ in seen.best] == expected.argmax(1).tolist()
    assert [name for name, _ in seen.top()] == [CLASSES[i] for i in expected.mean(0).argsort(descending=True)]
    header, *rows = csv.reader((tmp_path / "scores.csv").read_text().splitlines())
    assert header == ["frame", *CLASSES]
    assert [int(row[0]) for row in rows] == list(range(0, 2 * len(expected), 2))
    np.testing.assert_allclose([[float(x) for x in row[1:]] for row in rows], expected, atol=1e-5)
    summary = tree(seen, video)
    assert summary["frames"] == len(expected)
    assert [sorted(entry) for entry in summary["timeline"]] == [["class", "first", "last", "score"]] * len(
        summary["timeline"]
    )
    json.dumps(summary)


def test_a_folder_of_frames_is_predicted_like_the_video(run: Path, videos: Path, tmp_path: Path) -> None:
    """The frames are lossless images of the video."""
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
    with pytest.raises(DataError, match=r"contains no frames that match 'jpg_\*'"):
        predict_clips(trained, folder, frame_files="jpg_*")


def test_class_names_may_be_no_utf_8(videos: Path, tmp_path: Path) -> None:
    """Bytes of a folder's name, in tables and figures."""
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


def test_the_timeline_joins_consecutive_frames_of_one_class() -> None:
    found = timeline(seen_with([0] * 4 + [2] * 3 + [0] * 2, stride=3))
    assert [(part.name, part.first, part.last) for part in found] == [("ant", 0, 9), ("cat", 12, 18), ("ant", 21, 24)]
    assert [len(part.bars) for part in found] == [4, 3, 2]
    assert {part.score for part in found} == {0.5}


def test_the_timeline_of_a_long_video_stays_short() -> None:
    found = timeline(seen_with([number % 2 if number < 5000 else 2 for number in range(10_000)]))
    assert sum(len(part.bars) for part in found) == 60
    assert (found[0].first, found[-1].last, found[-1].name) == (0, 9_999, "cat")
    assert all(after.first == before.last + 1 for before, after in pairwise(found))


def test_unusable_videos_outputs_and_models_are_an_error(run: Path, videos: Path, tmp_path: Path) -> None:
    trained = open_model(run)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text.mp4"):
        predict_clips(trained, tmp_path / "text.mp4", tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()
    with pytest.raises(SidewaysError, match=r"cannot write .*No such file"):
        predict_clips(trained, videos / "val/cat/1.mp4", tmp_path / "missing/scores.csv")
    config = config_of(videos, model="autoencoder", task="autoencode")
    with pytest.raises(ConfigError, match=r"it outputs frames, not classes. `sideways eval` measures its error"):
        predict_clips(open_model(saved(tmp_path, config)), videos / "val/cat/1.mp4")
    next(trained.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(
        SidewaysError, match=r"outputs that are not finite numbers for .*1.mp4: its training has diverged"
    ):
        predict_clips(trained, videos / "val/cat/1.mp4")


def test_numbers_are_averaged_over_the_clip(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, task="regress", data__stride=2, data__flip=0.0)
    trained = open_model(saved(tmp_path, config, ["x", "y", "z"]))
    seen = predict_clips(trained, videos / "val/bee/1.mp4", tmp_path / "numbers.csv")
    header, *rows = (line.split(",") for line in (tmp_path / "numbers.csv").read_text().splitlines())
    assert header == ["frame", "x", "y", "z"]
    expected = torch.tensor([[float(value) for value in row[1:]] for row in rows]).mean(0)
    found = tree(seen, Path("clip"))
    assert list(found["numbers"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    console = Console(record=True, width=100, file=io.StringIO())
    show(seen, console)
    assert f"{found['numbers']['y']:.4g}" in console.export_text()
