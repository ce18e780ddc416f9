"""Runs with readers: one that is lost, data that only they see vanish, a request to stop that reaches one of them."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from common.config.run_file import parse
from tests.faults.faults import Fault
from tests.support.oracles import losses_of, replicated_run
from tests.support.processes import Background, sideways
from tests.support.settings import slow_run, write_run_file
from tests.support.videos import write_clip

pytestmark = pytest.mark.long


def with_readers(videos: Path, **changes: Any) -> dict[str, Any]:
    """A slow run of two replicas, each with a reader, and with frequent reports."""
    often = {"recovery__restarts": 3, "network__deadline": 4, "report__every": 0.05}
    return slow_run(videos, **{"stages": 2, "replicas": 2, "data__readers": 2, **often, **changes})


@pytest.mark.parametrize(
    ("fault", "transport"), [(Fault.KILLED, "auto"), (Fault.KILLED, "gloo"), (Fault.STALLED, "auto")]
)
def test_a_lost_reader_is_recovered_from(videos: Path, tmp_path: Path, fault: Fault, transport: str) -> None:
    tree = with_readers(videos, network__transport=transport)
    expected, _ = replicated_run(parse(tree, "test"))
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(70)
    fault.inject(background, "reader1")
    assert background.end(100) == 0, background.output()
    output = " ".join(background.output().split())
    assert "reader 1" in output
    assert re.search(fault.expected_output("reader1"), output), output
    assert "restarting all processes from the last checkpoint (restart 1)" in output
    assert [losses_of(tmp_path / "runs/it", replica) for replica in range(2)] == expected, output


def test_a_run_heals_from_a_lost_reader(videos: Path, tmp_path: Path) -> None:
    """No stage loses an update, and no tick is done twice."""
    background = Background(write_run_file(tmp_path / "run.toml", with_readers(videos, recovery__mode="heal")))
    background.wait_for_tick(70)
    Fault.KILLED.inject(background, "reader0")
    assert background.end(100) == 0, background.output()
    assert "no stage lost any update" in " ".join(background.output().split())
    for replica in range(2):  # their reports come in any order
        own = [line for line in background.metrics() if line["kind"] == "progress" and line["stage"] == 0]
        ticks = [line["tick"] for line in own if line.get("replica", 0) == replica]
        assert len(ticks) > 5
        assert ticks == sorted(ticks)


def test_when_the_data_vanish_the_model_is_kept_and_others_may_resume(tmp_path: Path) -> None:
    for number in range(4):
        write_clip(tmp_path / "data" / "ab"[number % 2] / f"{number}.mp4", 30, seed=number)
    tree = with_readers(tmp_path, data__train="data", ticks=10**6, checkpoint__every=10**5)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    background.wait_for_tick(60)
    (tmp_path / "data").rename(tmp_path / "away")
    assert background.end(60) == 1
    output, run = " ".join(background.output().split()), tmp_path / "runs" / "it"
    assert "none of the 4 clips can be decoded" in output
    assert "sideways train --resume runs/it" in output
    assert "restarting" not in output
    (checkpoint,) = (run / "checkpoints").iterdir()
    kept = int(checkpoint.name)
    (tmp_path / "away").rename(tmp_path / "data")
    more = "--set", f"ticks={kept + 20}", "--set", "data.readers=1"
    done = sideways("train", "--resume", "runs/it", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(losses_of(run)) == kept + 20 - 1


def test_a_signal_to_a_reader_stops_the_run_with_its_model(videos: Path, tmp_path: Path) -> None:
    background = Background(write_run_file(tmp_path / "run.toml", with_readers(videos, ticks=10**6)))
    background.wait_for_tick(30)
    import os

    os.kill(background.members()["reader1"], signal.SIGTERM)
    assert background.end(60) == 143, background.output()
    assert (tmp_path / "runs/it/model.safetensors").is_file()
