"""`sideways predict --source`, on a stream over a real local connection."""

import json
import signal
import socket
import subprocess
import sys
import threading
from itertools import count, pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from common.errors import ConfigError, SidewaysError
from coordinator.cli.offline import tools
from coordinator.python.model import Prediction
from coordinator.tools.predict_live import Change, changes
from tests.support.camera import Camera, transport_stream
from tests.support.processes import environment
from tests.support.rtsp import RtspCamera
from tests.support.settings import config_of
from tests.support.trained import CLASSES, saved

BRIGHT = """
from torch import nn

def build(classes, channels):
    head = nn.Linear(channels, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.weight.data[1] = 1.0  # a bright frame is a bee
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
"""


@pytest.fixture
def model(videos: Path, tmp_path: Path) -> Path:
    """A model by which dark frames are ants, and bright ones bees."""
    (tmp_path / "bright.py").write_text(BRIGHT)
    changed = {"model": f"{tmp_path / 'bright.py'}:build", "model_args": {}, "stages": 1, "split": [3]}
    return saved(tmp_path, config_of(videos, **changed))


def test_a_change_is_a_frame_of_another_class() -> None:
    rows = [[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.9, 0.0, 0.1], [0.0, 0.0, 1.0]]
    clock = (float(tick) for tick in count(10))
    scores = [torch.tensor(row, dtype=torch.float64) for row in rows]
    found = list(changes(Prediction(CLASSES, "mean", scores), 5.0, lambda: next(clock)))
    assert found == [Change(0, 0, "ant", 0.5), Change(2, 2, "bee", 0.8), Change(4, 4, "ant", 0.9)]
    assert str(found[1]) == "    2.00 s  0.800  bee"


def test_a_live_source_is_classified_as_it_changes(model: Path) -> None:
    """Its brightness rises for 40 frames and falls back, again and again."""
    camera = Camera(400, level=20, wait=0.02, step=5)
    try:
        arguments = ["predict", str(model), "--source", camera.url, "--seconds", "3", "--json"]
        done = CliRunner().invoke(tools, arguments)
        assert done.exit_code == 0, done.exception
        lines = [json.loads(line) for line in done.output.splitlines()]
        assert len(lines) >= 3
        assert all(set(line) == {"class", "seconds", "frame", "score"} for line in lines)
        assert {line["class"] for line in lines} == {"ant", "bee"}
        assert all(one["class"] != other["class"] for one, other in pairwise(lines))
        assert all(one["frame"] < other["frame"] for one, other in pairwise(lines))
    finally:
        camera.close()


@pytest.mark.long
def test_a_camera_that_speaks_rtsp_is_classified_as_it_changes(model: Path) -> None:
    with RtspCamera() as camera:
        options = ["--source-option", "rtsp_transport=tcp", "--seconds", "4", "--json"]
        done = CliRunner().invoke(tools, ["predict", str(model), "--source", camera.url, *options])
    assert done.exit_code == 0, done.exception
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert len(lines) >= 3
    assert {line["class"] for line in lines} == {"ant", "bee"}
    assert all(one["class"] != other["class"] for one, other in pairwise(lines))
    assert camera.asked[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]


@pytest.mark.long
def test_a_stream_over_udp_ends_by_ctrl_c(model: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ended, pieces = threading.Event(), transport_stream(400, level=20, step=5)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for piece in (piece for _ in count() for piece in pieces):
                for start in range(0, len(piece), 1316):
                    out.sendto(piece[start : start + 1316], ("127.0.0.1", port))
                if ended.wait(0.02):
                    return

    sender = threading.Thread(target=send)
    sender.start()
    command = [sys.executable, "-m", "sideways", "predict", str(model), "--source", f"udp://127.0.0.1:{port}"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    ended.set()
    sender.join()
    assert all(line.split()[-1] in ("ant", "bee") for line in first)


def test_a_model_that_has_diverged_is_told() -> None:
    prediction = Prediction(CLASSES, "mean", [torch.tensor([float("nan"), 0.5])])
    with pytest.raises(SidewaysError, match="not finite numbers: its training has diverged"):
        next(changes(prediction))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass a video, or a live source"),
        (["clip.mp4", "--source", "rtsp://x"], "but not both"),
        (["--source", "clip.mp4"], "is no address .* pass it as a video"),
        (["--source", "rtsp://x", "--csv", "scores.csv"], "--csv would have no effect with --source"),
        (["clip.mp4", "--seconds", "3"], "--seconds would have no effect without --source"),
        (["--source", "rtsp://x", "--source-option", "tcp"], "--source-option tcp has no value: write tcp=VALUE"),
    ],
)
def test_one_source_is_needed(model: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(tools, ["predict", str(model), *arguments])
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise done.exception
