"""Exported ONNX programs, run by onnxruntime: outputs, any number of frames, memories as inputs and outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.settings import Config
from common.errors import ConfigError, SidewaysError
from common.models import build
from common.models.temporal import CausalConv, ConvGRU, Memory, Motion, TemporalShift
from coordinator.run_directory import RunDirectory
from coordinator.tools.export import export
from coordinator.tools.onnx_program import Streaming
from coordinator.tools.trained_model import open_model
from tests.support.models import user_model
from tests.support.settings import config_of
from tests.support.trained import CLASSES, saved


def session(file: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def small(folder: Path, **changes: Any) -> Config:
    return config_of(folder, **{"stages": 1, "split": [8], **changes})


@pytest.mark.long
def test_a_program_gives_the_models_output_for_any_number_of_frames(tmp_path: Path) -> None:
    run, out = saved(tmp_path, small(tmp_path)), tmp_path / "out.onnx"
    assert export(run, out) == 23
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.onnx"]
    program, trained = session(out), open_model(run)
    for rows in (1, 7):
        x = torch.randn(rows, 3, 16, 16)
        found = torch.from_numpy(program.run(["output"], {"frames": x.numpy()})[0])
        torch.testing.assert_close(found, trained.run(x), rtol=1e-4, atol=1e-5)
    about = program.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == trained.classes
    assert json.loads(about["data"])["size"] == 16


def streamed(program: Any, frames: list[Tensor], begins: list[list[bool]]) -> list[Tensor]:
    """The outputs for frame batches, one after the other. The first memories are zeros."""
    rows = len(frames[0])
    shapes = {each.name: each.shape for each in program.get_inputs() if each.name.startswith("memory.")}
    memory = {name: np.zeros([rows, *shape[1:]], np.float32) for name, shape in shapes.items()}
    names = [name.replace("memory.", "next.") for name in shapes]
    outputs = []
    for x, new in zip(frames, begins, strict=True):
        y, *after = program.run(["output", *names], {"frames": x.numpy(), "begins": np.array(new), **memory})
        memory = dict(zip(shapes, after, strict=True))
        outputs.append(torch.from_numpy(y))
    return outputs


GRU = """
from common.models.temporal import ConvGRU

def build(classes):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), ConvGRU(4, 6), head)
"""


@pytest.mark.parametrize(
    "temporal",
    ["shift", pytest.param("motion", marks=pytest.mark.long), pytest.param("gru", marks=pytest.mark.long)],
)
def test_memories_are_inputs_and_outputs_of_the_program(tmp_path: Path, temporal: str) -> None:
    """Two slots, in the second of which another clip begins at the tenth frame."""
    if temporal == "gru":
        config = small(tmp_path, model=user_model(tmp_path, GRU), model_args={}, split=[3])
    else:
        config = small(tmp_path, model_args={"width": 4, "temporal": temporal})
    run, out = saved(tmp_path, config), tmp_path / "out.onnx"
    export(run, out)
    trained, program = open_model(run), session(out)
    frames = [torch.randn(2, 3, 16, 16) for _ in range(16)]
    clips = [np.array([0, 1 if tick < 9 else 2], np.int64) for tick in range(16)]
    expected = [y.clone() for y in trained.play(zip(clips, frames, strict=True))]
    found = streamed(program, frames, [[tick == 0, tick in (0, 9)] for tick in range(16)])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    alone = trained.run(frames[-1])
    assert not torch.allclose(expected[-1], alone, rtol=1e-2, atol=1e-3), "else the memory would have no effect"


@pytest.mark.parametrize("make", [lambda: Motion((1, 3)), TemporalShift, lambda: CausalConv(4, 4), lambda: ConvGRU(4)])
def test_steps_without_numbers_give_what_numbered_ones_give(make: Any) -> None:
    torch.manual_seed(0)
    block: Memory = make()
    for parameter in block.parameters():
        parameter.detach().normal_()
    frames = [torch.randn(2, 4, 5, 5) for _ in range(9)]
    with torch.no_grad():
        numbered = uncounted = block.initial(frames[0])
        uncounted = uncounted.clone()
        for tick, x in enumerate(frames):
            expected, numbered = block.step(x, numbered, tick + 3)
            expected = expected.clone()
            found, uncounted = block.step_uncounted(x, uncounted)
            assert torch.equal(expected, found)


def test_the_streaming_module_leaves_no_trace(tmp_path: Path) -> None:
    trained = open_model(saved(tmp_path, small(tmp_path, model_args={"width": 4, "temporal": "shift"})))
    x, streaming = torch.randn(2, 3, 16, 16), Streaming(trained.module)
    expected = trained.run(x)
    states = streaming.initial(x)
    y, *after = streaming(x, torch.tensor([True, True]), *states)
    assert torch.equal(y, expected)
    assert len(after) == len(states) == 6
    assert torch.equal(trained.run(x), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"model": "autoencoder", "task": "autoencode"},
        {"model": "resnet18", "model_args": {}, "data__size": 32, "split": [10]},
        {"model": "vit_b_16", "model_args": {}, "data__size": 32, "split": [14]},
        {"model": "timm:test_convnext", "model_args": {}, "data__size": 64, "split": [14]},
    ],
    ids=["autoencoder", "resnet18", "vit", "timm"],
)
def test_other_models_can_be_exported(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The export compares the program with the model itself."""
    export(saved(tmp_path, small(tmp_path, **changes)), tmp_path / "out", "onnx")
    assert session(tmp_path / "out").get_inputs()[0].name == "frames"


@pytest.mark.long
def test_a_model_with_skips_takes_the_frames_of_a_clip(tmp_path: Path) -> None:
    remembering = {"model_args": {"width": 4, "temporal": "shift"}}
    config = small(tmp_path, stages=3, split=[2, 3, 3], skips=[[0, 2]], **remembering)
    run, out = saved(tmp_path, config), tmp_path / "out.onnx"
    weights = {**build(config, 3).state_dict(), "skips.0-2": torch.randn(16, 4)}
    RunDirectory(run).save_model(weights, config, CLASSES)
    export(run, out)
    x = torch.randn(9, 3, 16, 16)
    expected = torch.cat([y.clone() for y in open_model(run).in_order([x])])
    found = torch.from_numpy(session(out).run(None, {"frames": x.numpy()})[0])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


COUNTS = """
from common.models.temporal import Memory

class Counts(Memory):
    def initial(self, x): return x
    def step(self, x, state, tick): return x * (tick % 2) + state, x

def build(classes):
    return nn.Sequential(nn.Conv2d(3, 3, 3), Counts(), nn.Flatten(), nn.Linear(588, classes))
"""
BRANCHES = """
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3)
    def forward(self, x):
        return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)

def build(classes):
    return nn.Sequential(Branches(), nn.Flatten(), nn.Linear(588, classes))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "message"),
    [(COUNTS, "differs from the model by .* needs `step_uncounted`"), (BRANCHES, "torch.onnx cannot export .*Export")],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(tmp_path: Path, source: str, message: str) -> None:
    config = small(tmp_path, model=user_model(tmp_path, source), model_args={}, split=None)
    with pytest.raises(SidewaysError, match=message):
        export(saved(tmp_path, config), tmp_path / "out.onnx")
    assert not list(tmp_path.glob("*out*"))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.tools.onnx_program.find_spec", lambda name: None if name == "onnx" else 1)
    with pytest.raises(ConfigError, match=r'install onnx: pip install "sideways-video\[onnx\]"'):
        export(saved(tmp_path, small(tmp_path)), tmp_path / "out.onnx")
