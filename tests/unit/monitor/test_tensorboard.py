"""TensorBoard event files: what is written reads back, and a write error only gives a warning."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.partition.balance import BlockCost
from coordinator.monitor.tensorboard import EventFiles
from tests.support.reports import evaluation_event, progress_event


def written(run: Path) -> Any:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def refuse(text: str) -> None:
    raise AssertionError(text)


def test_reports_become_scalars(tmp_path: Path) -> None:
    files = EventFiles(tmp_path, refuse)
    line = {"kind": "progress", "stage": 2, "tick": 40, "ticks": 10, "tick_ms": 5.5, "loss": 1.25, "losses": [1.0]}
    files.progress(progress_event(line, stage=2, tick=40))
    later = {**line, "tick": 80, "loss": None, "gated_share": 0.5, "diverged": True}
    files.progress(progress_event(later, stage=2, tick=80))
    files.probed({"kind": "probe", "tick": 60, "stages": [{"stage": 0, "cosine": 0.5, "frames": None}]})
    confusion = torch.tensor([[3, 1], [1, 3]])
    files.evaluated(evaluation_event(80, {"top1": 0.75, "mse": None, "clips": 8}, confusion=confusion))
    files.close("finished", "", 0)
    events = written(tmp_path)
    curves = {name: [(at.step, at.value) for at in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves == {
        "stage 2/tick_ms": [(40, 5.5), (80, 5.5)],
        "stage 2/loss": [(40, 1.25)],
        "stage 2/gated_share": [(80, 0.5)],
        "probe 0/cosine": [(60, 0.5)],
        "evaluation/top1": [(80, 0.75)],
        "evaluation/clips": [(80, 8.0)],
    }
    assert events.Tags()["images"] == ["confusion"]


@pytest.mark.parametrize(("first", "kept"), [(101, [50, 100]), (100, [50]), (0, []), (None, [50, 100, 120])])
def test_a_run_that_goes_on_hides_what_comes_again(tmp_path: Path, first: int | None, kept: list[int]) -> None:
    files = EventFiles(tmp_path, refuse)
    for tick in (50, 100, 120):
        files.evaluated(evaluation_event(tick, {"top1": 0.5}))
    files.close("restarting", "", 120)
    files = EventFiles(tmp_path, refuse, first)
    files.evaluated(evaluation_event(150, {"top1": 0.75}))
    files.close("finished", "", 150)
    assert [event.step for event in written(tmp_path).Scalars("evaluation/top1")] == [*kept, 150]


def test_the_split_is_written_as_a_table(tmp_path: Path) -> None:
    files = EventFiles(tmp_path, refuse)
    files.measured([BlockCost("stem", 1.5, 8, 100), BlockCost("head", 0.5, 1, 20)], [1, 1])
    files.close("finished", "", 0)
    text = written(tmp_path).Tensors("partition/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| stem | 0 | 100 | 1.50 | 8 |" in text
    assert "| head | 1 | 20 | 0.50 | 1 |" in text


def test_frames_and_reconstructions_are_side_by_side(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    others = torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8)
    files = EventFiles(tmp_path, refuse)
    files.evaluated(evaluation_event(5, {}, (frames, others)))
    files.evaluated(evaluation_event(6, {}, (frames[:, :1], others[:, :1])))  # grey
    files.close("finished", "", 0)
    image = written(tmp_path).Images("frame and reconstruction")[0]
    (tmp_path / "picture.png").write_bytes(image.encoded_image_string)
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] in (12, 24)  # a pair, or both pairs in a row
    assert np.array_equal(pixels[:4, :6], frames[0].permute(1, 2, 0).numpy())
    assert np.array_equal(pixels[:4, 6:12], others[0].permute(1, 2, 0).numpy())


FULL_DISK = """
import resource
import sys
from pathlib import Path
import torch
from coordinator.monitor.tensorboard import EventFiles
from tests.support.reports import evaluation_event, progress_event

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
files = EventFiles(Path(sys.argv[1]), print)
noise = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
for tick in range(30):
    files.evaluated(evaluation_event(tick, {}, (noise, noise)))
    files.progress(progress_event(tick=tick))
files.close("finished", "", 0)
files.close("finished", "", 0)
"""


def test_a_full_disk_gives_one_warning(tmp_path: Path) -> None:
    """In another process with a limit of 4 KiB per file, as this one's own output may go to a file."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("\n") == 1
    assert "TensorBoard files are no longer written" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_folder_that_cannot_be_created_gives_one_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    warnings: list[str] = []
    files = EventFiles(tmp_path, warnings.append)
    files.progress(progress_event(tick=1))
    files.evaluated(evaluation_event(1, {"top1": 1.0}))
    files.close("finished", "", 0)
    assert len(warnings) == 1
