"""deploy/member.sh: members of a run that are stopped and replaced, as containers and pods are."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.config.run_file import parse
from tests.support.oracles import losses_of, replicated_run
from tests.support.processes import environment, free_ports, sideways
from tests.support.settings import settings, write_run_file

MEMBER = Path(__file__).parent.parent.parent / "deploy/member.sh"
STAGES = 2


class Members:
    """Processes of deploy/member.sh with a common folder, which has a log of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # this interpreter's torchrun
            "WORKERS": str(STAGES),
            "MEETING": f"127.0.0.1:{free_ports(1)}",
            "SIDEWAYS_LAUNCH": "test",
            "SIDEWAYS_ADDRESS": "127.0.0.1",
        }

    def expect(self, workers: int, readers: int) -> None:
        """Another number of members."""
        self._own |= {"WORKERS": str(workers), "READERS": str(readers)}

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "wb") as log:
            command, own = ["sh", str(MEMBER), *arguments], environment() | self._own
            return subprocess.Popen(command, cwd=self.folder, env=own, stdout=log, stderr=subprocess.STDOUT)

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in sorted(self.folder.glob("*.log")))


def ticks(run: Path) -> int:
    """The last tick that the run has reported."""
    if not (run / "metrics.jsonl").is_file():
        return 0
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
    return max((json.loads(line).get("tick", 0) for line in lines), default=0)


def until(condition: Callable[[], bool], members: Members) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, members.logs()
        time.sleep(0.2)


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path)


def test_a_wrong_setting_ends_the_coordinator_before_the_rendezvous(
    videos: Path, tmp_path: Path, members: Members
) -> None:
    run_file = write_run_file(tmp_path / "run.toml", settings(videos))
    coordinator = members.start("it", "coordinator", str(run_file), "--set", "data.slots=none")
    assert coordinator.wait(60) == 2
    assert "data.slots" in members.logs()


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_stopped_member_can_be_replaced_and_sideways_stop_ends_all_members(
    videos: Path, tmp_path: Path, members: Members
) -> None:
    tree = settings(videos, stages=STAGES, ticks=10_000_000, name="it", report__redis=True)
    write_run_file(tmp_path / "run.toml", tree)
    run = tmp_path / "runs/it"
    with ExitStack() as ended:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            process = members.start(name, *arguments)
            ended.callback(process.kill)
            return process

        coordinator = start("coordinator", "coordinator", "run.toml")
        stages = [start(f"stage{number}", "stage") for number in range(STAGES)]
        until(lambda: ticks(run) > 20, members)
        stages[1].send_signal(signal.SIGTERM)  # its host is drained
        assert stages[1].wait(60) != 0, members.logs()
        summary = json.loads((run / "summary.json").read_text())
        stages[1] = start("replacement", "stage")
        until(lambda: ticks(run) > summary["ticks"] + 20, members)
        assert "resumed from" in members.logs()
        assert coordinator.poll() is None
        assert stages[0].poll() is None
        done = sideways("stop", str(run), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert [process.wait(60) for process in (coordinator, *stages)] == [0, 0, 0], members.logs()
        assert not list(run.parent.glob(".launch-*"))
        assert json.loads((run / "summary.json").read_text())["ticks"] > summary["ticks"] + 20


@pytest.mark.long
def test_a_permanent_error_ends_the_run_and_is_printed_once(videos: Path, tmp_path: Path, members: Members) -> None:
    write_run_file(tmp_path / "run.toml", settings(videos, stages=STAGES, data__train=str(tmp_path / "nothing")))
    processes = [members.start("coordinator", "coordinator", "run.toml")]
    processes += [members.start(f"stage{number}", "stage") for number in range(STAGES)]
    try:
        assert [process.wait(120) for process in processes] == [1, 1, 1], members.logs()
    finally:
        for process in processes:
            process.kill()
    logs = members.logs()
    assert logs.count(str(tmp_path / "nothing")) == 1, logs
    assert logs.count("the coordinator's member cannot be reached, so this one ends: see its log") == STAGES, logs
    assert "Traceback" not in logs, logs


@pytest.mark.long
def test_readers_are_members_too(videos: Path, tmp_path: Path, members: Members) -> None:
    tree = settings(videos, stages=1, replicas=2, data__slots=4, data__readers=1, ticks=60, name="it")
    write_run_file(tmp_path / "run.toml", tree)
    members.expect(workers=2, readers=1)
    processes = [members.start("coordinator", "coordinator", "run.toml")]
    processes += [members.start(name, name.rstrip("01")) for name in ("stage0", "stage1", "reader0")]
    try:
        assert [process.wait(150) for process in processes] == [0, 0, 0, 0], members.logs()
    finally:
        for process in processes:
            process.kill()
    expected, _ = replicated_run(parse(tree, "test"))
    assert [losses_of(tmp_path / "runs/it", replica) for replica in range(2)] == expected


def test_one_member_runs_all_processes_of_a_run(videos: Path, tmp_path: Path, members: Members) -> None:
    """As in docker-compose.gpu.yml."""
    write_run_file(tmp_path / "run.toml", settings(videos, stages=STAGES, ticks=40, name="it"))
    process = members.start("all", "all", "run.toml", "--set", "ticks=60")
    try:
        assert process.wait(120) == 0, members.logs()
    finally:
        process.kill()
    assert json.loads((tmp_path / "runs/it/summary.json").read_text())["ticks"] == 60


def test_an_invalid_setting_that_only_the_run_notices_ends_with_its_exit_code(
    videos: Path, tmp_path: Path, members: Members
) -> None:
    """As with `sideways train`."""
    write_run_file(tmp_path / "run.toml", settings(videos, stages=STAGES + 1))
    process = members.start("all", "all", "run.toml")
    try:
        assert process.wait(120) == 2, members.logs()
    finally:
        process.kill()
    assert f"stages = {STAGES + 1}, but {STAGES} stage workers joined" in members.logs()
    assert "Traceback" not in members.logs()
