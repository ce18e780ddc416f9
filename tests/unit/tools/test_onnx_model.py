"""Exported .onnx files opened like other models: frames on their own, streams with memory, evaluation, prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sideways
from common.errors import ConfigError, SidewaysError
from coordinator.tools.evaluate import data_for, find_clips, score
from coordinator.tools.export import export
from coordinator.tools.predict import predict_clips
from coordinator.tools.trained_model import Stream, open_model
from tests.support.settings import config_of
from tests.support.trained import CLASSES, saved
from tests.support.videos import write_clip

ABOUT = {
    "model": "vgg8",
    "model_args": "{}",
    "task": "classify",
    "classes": json.dumps(CLASSES),
    "data": json.dumps({"size": 16, "mean": 0.0, "std": 1.0}),
}


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that gives the sum of the channels' means over all frames of a clip so far."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceMean", ["frames", "sides"], ["means"], keepdims=0),
        helper.make_node("Unsqueeze", ["begins", "one"], ["column"]),
        helper.make_node("Where", ["column", "zero", "memory.sum"], ["before"]),
        helper.make_node("Add", ["before", "means"], ["output"]),
        helper.make_node("Identity", ["output"], ["next.sum"]),
    ]
    inputs = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["n", 3, 16, 16]),
        helper.make_tensor_value_info("begins", TensorProto.BOOL, ["n"]),
        helper.make_tensor_value_info("memory.sum", TensorProto.FLOAT, ["n", 3]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("output", "next.sum")]
    constants = [
        helper.make_tensor("sides", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
    ]
    graph = helper.make_graph(nodes, "summing", inputs, outputs, constants)
    program = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(program, ABOUT)
    file = tmp_path_factory.mktemp("onnx") / "summing.onnx"
    onnx.save(program, file)
    return file


def test_memories_go_from_frame_to_frame_and_begin_anew_with_a_clip(summing: Path) -> None:
    trained = open_model(summing)
    assert (trained.classes, trained.data.size, bool(trained.memories)) == (CLASSES, 16, True)
    frames = [torch.rand(2, 3, 16, 16) for _ in range(4)]
    means = [x.mean((2, 3)) for x in frames]
    clips = [np.array([0, 1 if tick < 2 else 2]) for tick in range(4)]
    found = [y.clone() for y in trained.play(zip(clips, frames, strict=True))]
    torch.testing.assert_close(found[3][0], sum(each[0] for each in means))
    torch.testing.assert_close(found[3][1], means[2][1] + means[3][1])
    torch.testing.assert_close(trained.run(frames[0]), means[0])  # each frame is the first of a clip


def test_a_stream_goes_on_after_another_one(summing: Path) -> None:
    trained, clip, x = open_model(summing), np.zeros(1, np.int64), torch.ones(1, 3, 16, 16)
    stream = Stream(trained)
    assert stream.step(clip, x) is not None
    with stream.aside():
        assert [float(y[0, 0]) for y in trained.in_order([torch.ones(3, 3, 16, 16)])] == [1, 2, 3]
    found = stream.step(clip, x)
    assert found is not None
    assert float(found[0, 0]) == 2


def test_a_clip_is_predicted_and_a_stream_stepped(summing: Path, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "a.mp4", 5, (16, 16))
    assert len(predict_clips(open_model(summing), video).best) == 5
    model, frame = sideways.load(summing), np.full((16, 16, 3), 255, np.uint8)
    first, second = model.step(frame), model.step(frame)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_what_is_no_program_is_refused(summing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.onnx").write_bytes(summing.read_bytes()[:50])
    with pytest.raises(SidewaysError, match=r"half.onnx is not a program that onnxruntime can load"):
        open_model(tmp_path / "half.onnx")
    monkeypatch.setattr("coordinator.tools.onnx_model.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'install onnxruntime: pip install "sideways-video\[onnx\]"'):
        open_model(summing)


@pytest.mark.long
@pytest.mark.parametrize("temporal", ["none", "shift"])
def test_an_exported_model_scores_clips_as_the_run_does(tmp_path: Path, temporal: str) -> None:
    for number, name in enumerate(CLASSES * 2):
        write_clip(tmp_path / f"clips/{name}/{number}.mp4", 6 + number, (24, 20), seed=number)
    args = {} if temporal == "none" else {"temporal": temporal}
    run = saved(tmp_path, config_of(tmp_path, stages=1, split=[8], model_args={"width": 4, **args}))
    export(run, tmp_path / "out.onnx")
    results = []
    for file in (run, tmp_path / "out.onnx"):
        trained = open_model(file)
        data = data_for(trained, run, tmp_path / "clips", "*").model_copy(update={"slots": 4})
        results.append(score(trained, find_clips(trained, data), data)[0])
    ours, theirs = results
    torch.testing.assert_close(ours.sums, theirs.sums, rtol=1e-3, atol=1e-4)
    assert ours.labels.equal(theirs.labels)
