"""`sideways check`: its findings, its files, and how training uses them."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from common.config.settings import Data
from common.errors import ConfigError, DataError
from coordinator.tools.check_data import check, figures, quarantine, settings
from coordinator.video.files.clips import collect
from tests.support.processes import sideways
from tests.support.settings import settings as run_settings
from tests.support.settings import write_run_file
from tests.support.videos import video_stream, write_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good clips, a truncated one, an empty one, and one with a valid header but broken frames."""
    root = tmp_path / "v"
    write_clip(root / "a" / "1.mp4", 12, size=(40, 30))
    write_clip(root / "b" / "2.mkv", 6, rate=10)
    broken = write_clip(root / "a" / "broken.avi", 200, size=(64, 48), codec="mpeg4")
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    (root / "b" / "noise.mp4").write_bytes(b"nothing" * 100)
    hollow = bytearray(write_clip(root / "b" / "hollow.mp4", 9).read_bytes())
    place = hollow.find(b"mdat") + 4
    size = int.from_bytes(hollow[place - 8 : place - 4], "big") - 8
    hollow[place : place + size] = b"\xff" * size
    (root / "b" / "hollow.mp4").write_bytes(hollow)
    return root


def test_check_decodes_every_clip_and_reports_problems(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, ["stages=5", "data.size=16"])
    surveys = check(config)
    result = figures(surveys[0], config)
    assert {path.name for path in surveys[0].bad} >= {"noise.mp4", "hollow.mp4"}
    assert (result["classes"], result["mismatch_frames"], result["clips_within_mismatch"]) == (2, 8, 1)
    assert result["sizes"] == {"40x30": 1, "24x20": 1, "64x48": 1}
    assert set(result["frame_rates"]) == {"25", "10"}
    assert result["shortest_clip_frames"] == 6
    list_of_bad = tmp_path / "bad.txt"
    assert quarantine(surveys, list_of_bad) == len(surveys[0].bad)
    left = collect(Data(train=folder, quarantine=list_of_bad), "train")
    assert {clip.path for clip in left.clips} == {finding.path for finding in surveys[0].findings if not finding.reason}
    assert left.quarantined == len(surveys[0].bad)


def test_smoothness_matches_its_formula(tmp_path: Path) -> None:
    """On losslessly encoded frames: ||x_t - x_{t-1}|| / ||x_t||, across chunks, with the run's stride."""
    levels = np.random.default_rng(0).integers(140, 250, 45)
    path = tmp_path / "a" / "x.mkv"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = video_stream(container, "ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "gray"
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 16), level, np.uint8), format="gray")))
        container.mux(stream.encode())
    for stride in (1, 2):
        config = settings(tmp_path, [f"data.stride={stride}", "data.size=16", "data.channels=1"])
        x = (levels[::stride] / 255 - 0.5) / 0.25
        expected = (np.abs(x[1:] - x[:-1]) / np.abs(x[1:])).mean()
        assert figures(check(config)[0], config)["smoothness"] == pytest.approx(expected, abs=1e-3)


def test_the_check_command_prints_and_writes_its_results(folder: Path, tmp_path: Path) -> None:
    result = sideways("check", folder, "--stages", "3", "--quarantine", tmp_path / "bad.txt", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "noise.mp4" in result.stdout
    last = json.loads(result.stdout.splitlines()[-1])
    assert last["parts"][0]["mismatch_frames"] == 4
    assert len(last["bad"]) == len((tmp_path / "bad.txt").read_text().splitlines())


def test_a_run_files_settings_apply_to_training_and_validation_data(videos: Path, tmp_path: Path) -> None:
    file = write_run_file(tmp_path / "run.toml", run_settings(videos, data__val=str(videos / "val"), data__stride=2))
    config = settings(file, ["stages=3", "split=[2, 3, 3]"])
    result = [figures(survey, config) for survey in check(config)]
    assert [part["clips"] for part in result] == [9, 6]
    assert result[0]["frames"] == sum(-(-frames // 2) for frames in (5, 17, 31, 8, 23, 40, 12, 9, 26))
    assert result[0]["stages"] == 3


def test_without_readable_clips_the_exit_code_is_1(tmp_path: Path) -> None:
    (tmp_path / "v" / "a").mkdir(parents=True)
    (tmp_path / "v" / "a" / "x.mp4").write_bytes(b"nothing")
    result = sideways("check", tmp_path / "v", "--json", cwd=tmp_path)
    assert result.returncode == 1
    assert list(json.loads(result.stdout.splitlines()[-1])["bad"]) == [str(tmp_path / "v" / "a" / "x.mp4")]


def test_data_that_cannot_be_checked_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        check(settings(tmp_path / "gone", []))
    with pytest.raises(ConfigError, match="unknown setting"):
        settings(tmp_path, ["data.slotz=3"])
    live = settings(
        write_run_file(tmp_path / "r.toml", {"ticks": 1, "task": "autoencode", "data": {"sources": ["x"]}}), []
    )
    with pytest.raises(DataError, match="live sources cannot be checked"):
        check(live)
