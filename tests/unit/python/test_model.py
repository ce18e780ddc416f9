"""Trained models from Python: clips, frames, streams."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sideways
from common.config.settings import Config
from common.models import build
from common.rule.reference import stages_from
from coordinator.run_directory import RunDirectory
from coordinator.tools.export import export
from coordinator.tools.predict import predict_clips
from coordinator.tools.trained_model import open_model
from coordinator.video.decoding.reader import read
from tests.support.camera import Camera
from tests.support.settings import config_of
from tests.support.trained import CLASSES, saved

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "motion": {"model_args": {"width": 4, "temporal": "motion"}, "answer": 2},
    "skips": {
        "model_args": {"width": 4, "temporal": "shift"},
        "stages": 4,
        "split": [2, 2, 2, 2],
        "skips": [[0, 2], [1, 3], [0, 3]],
    },
}
CLIP = "val/cat/1.mp4"


def run_of(folder: Path, config: Config) -> Path:
    """A run directory. Skips do not begin at zero."""
    run = saved(folder, config)
    if config.skip_pairs:
        torch.manual_seed(1)
        model = build(config, 3)
        merges = [stage.merge for stage in stages_from(model, config, 1, 1) if stage.merge is not None]
        tensors = dict(model.state_dict())
        for merge in merges:
            tensors |= {name: torch.randn_like(value) for name, value in merge.state_dict().items()}
        RunDirectory(run).save_model(tensors, config, CLASSES)
    return run


def frames_of(config: Config, video: Path) -> np.ndarray:
    """The frames that the model sees, before the crop, uint8 [n, height, width, channels]."""
    data = config.data
    return np.concatenate(list(read(video, data.stride, data.short_side, data.channels))).transpose(0, 2, 3, 1)


def stepped(model: sideways.Model, frames: np.ndarray) -> list[torch.Tensor]:
    return [scores for frame in frames if (scores := model.step(frame)) is not None] + model.finish()


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_a_stream_gives_what_predict_gives_for_the_clip(kind: str, videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, **KINDS[kind])
    run = run_of(tmp_path, config)
    model, frames = sideways.load(run), frames_of(config, videos / CLIP)
    assert model.classes == CLASSES
    assert model.delay == (3 if kind == "skips" else 0)
    clip = model.predict(str(videos / CLIP))
    assert clip.scores.shape == (len(frames), 3)
    best, score = clip.top(1)[0]
    told = repr(clip)
    assert told.startswith(f"Prediction({best} {score:.3f}, ")
    assert told.endswith(f"; frames: {len(frames)})")
    assert torch.equal(model.predict(frames).scores, clip.scores)
    assert len(model.predict(frames[0]).scores) == 1
    half = stepped(model, frames[:9])  # another clip before
    torch.testing.assert_close(torch.stack(half), model.predict(frames[:9]).scores)
    in_order = []
    for number, frame in enumerate(frames):
        in_order.append(model.step(frame))
        if number == 5:
            model.predict(frames)  # does not disturb the stream
    assert [scores is None for scores in in_order[:4]] == [kind == "skips"] * 3 + [False]
    answers = torch.stack([scores for scores in [*in_order, *model.finish()] if scores is not None])
    if kind == "plain":  # predict computes several frames at once
        torch.testing.assert_close(answers, clip.scores)
    else:
        assert torch.equal(answers, clip.scores)
    expected = predict_clips(open_model(run), videos / CLIP).top()
    assert [name for name, _ in clip.top()] == [name for name, _ in expected]
    assert [score for _, score in clip.top()] == pytest.approx([score for _, score in expected])
    assert [row.tolist() for row in clip] == clip.scores.tolist()


def test_the_model_is_a_module_for_transformed_frames(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos)
    model, frames = sideways.load(str(saved(tmp_path, config))), frames_of(config, videos / CLIP)
    x = model.transform(frames)
    assert x.shape == (len(frames), 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x).double().softmax(1), model.predict(frames).scores)
    assert isinstance(model, nn.Module)
    assert model.module.state_dict().keys() == build(config, 3).state_dict().keys()


def test_code_that_restores_its_mode_leaves_it_in_evaluation_mode(videos: Path, tmp_path: Path) -> None:
    """BatchNorm takes its running statistics, as after loading. A program has no other mode."""
    config = config_of(videos, model_args={"width": 4, "norm": "batch"})
    run, frames = saved(tmp_path, config), frames_of(config, videos / CLIP)
    export(run, tmp_path / "out.pt2")
    for path in (run, tmp_path / "out.pt2"):
        model = sideways.load(path)
        expected, was = model.predict(frames).scores, model.training
        assert not was
        assert model.eval() is model
        assert model.train(was) is model
        assert torch.equal(model.predict(frames).scores, expected)
        assert model.train().training == model.module.training == (path is run)
        model.eval()
        assert torch.equal(model.predict(frames).scores, expected)


def test_a_model_of_frames_gives_frames(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, model="autoencoder", task="autoencode")
    model, frames = sideways.load(saved(tmp_path, config)), frames_of(config, videos / CLIP)
    output = model.step(frames[0])
    assert output is not None
    assert output.shape == (3, 16, 16)
    with pytest.raises(sideways.ConfigError, match="it outputs frames, not classes"):
        model.predict(frames)


def test_what_cannot_be_predicted_is_refused(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, model_args={"width": 4, "temporal": "motion"})
    model = sideways.load(saved(tmp_path, config))
    with pytest.raises(sideways.DataError, match=r"shape \[0, 16, 16, 3\]"):
        model.predict(np.zeros((0, 16, 16, 3), np.uint8))
    (tmp_path / "corrupt.mp4").write_bytes(bytes(1000))
    for name, reason in (("missing.mp4", "No such file"), ("corrupt.mp4", "Invalid data")):
        with pytest.raises(sideways.DataError, match=f"{name}: {reason}") as error:
            model.predict(tmp_path / name)
        assert error.value.__cause__ is None
    with pytest.raises(sideways.DataError, match=r"step takes one frame at a time, not 2"):
        model.step(np.zeros((2, 16, 16, 3), np.uint8))


def test_a_program_of_blocks_that_remember_plays_whole_clips_and_no_streams(videos: Path, tmp_path: Path) -> None:
    config = config_of(videos, model_args={"width": 4, "temporal": "motion"}, answer=2)
    run, frames = saved(tmp_path, config), frames_of(config, videos / CLIP)
    export(run, tmp_path / "out.pt2")
    program, model = sideways.load(tmp_path / "out.pt2"), sideways.load(run)
    for source in (videos / CLIP, frames, frames[:1]):
        found, expected = program.predict(source), model.predict(source)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.answer, expected.answer, rtol=1e-5, atol=1e-6)
    with pytest.raises(sideways.ConfigError, match="takes the frames of a whole clip at once"):
        program.step(frames[0])
    with pytest.raises(sideways.ConfigError, match="takes the frames of a whole clip at once"):
        program.predict("rtsp://127.0.0.1/nothing")


def test_the_model_tells_how_fast_its_clips_were_played(videos: Path, tmp_path: Path) -> None:
    for name, given, expected in (("data__fps", 12.5, (12.5, 1)), ("data__stride", 2, (None, 2))):
        model = sideways.load(saved(tmp_path / name, config_of(videos, **{name: given})))
        assert (model.fps, model.stride) == expected


def test_a_live_source_is_predicted_as_it_comes(videos: Path, tmp_path: Path) -> None:
    camera = Camera(300, wait=0.03)
    try:
        model = sideways.load(saved(tmp_path, config_of(videos, model_args={"width": 4, "temporal": "motion"})))
        prediction = model.predict(camera.url)
        for _ in range(2):  # each loop opens the source, and closes it when it ends
            rows = [row for _, row in zip(range(5), prediction, strict=False)]
            assert torch.stack(rows).sum(1).tolist() == pytest.approx([1] * 5)
            assert prediction.answer.tolist() == pytest.approx(torch.stack(rows).mean(0).tolist())
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("source")]
        assert camera.served == 2
        with pytest.raises(sideways.ConfigError, match="has no end"):
            _ = prediction.scores
    finally:
        camera.close()
