"""deploy/slurm/sideways.sbatch on a real Slurm with two nodes, both on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from common.config.run_file import parse
from tests.support.oracles import losses_of, reference_run, replicated_run
from tests.support.processes import environment, free_ports
from tests.support.settings import config_of, settings, write_run_file

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "deploy/slurm/sideways.sbatch"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=socket=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SelectType=select/cons_tres
SchedulerParameters=sched_interval=5,bf_interval=5
JobRequeue=1
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.mark.parametrize("script", [SCRIPT, ROOT / "deploy/member.sh"], ids=lambda path: path.name)
def test_the_scripts_pass_the_shells_syntax_check(script: Path) -> None:
    shell = "bash" if script.suffix == ".sbatch" else "sh"
    subprocess.run([shell, "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", str(script)], check=True)


class Slurm:
    """slurmctld and two slurmds with their own folder."""

    def __init__(self, folder: Path) -> None:
        self.conf = folder / "slurm.conf"
        (folder / "state").mkdir(parents=True)
        port = free_ports(3)
        names = {"host": os.uname().nodename, "user": "root", "folder": folder}
        self.conf.write_text(CONF.format(**names, port=port, first=port + 1, second=port + 2))
        commands = [["slurmctld"], ["slurmd", "-N", "first"], ["slurmd", "-N", "second"]]
        self.daemons = [
            subprocess.Popen(
                [*command, "-D", "-f", str(self.conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for command in commands
        ]

    def __call__(self, *command: str, cwd: Path | None = None) -> str:
        """Run a Slurm command. Returns its output, or an empty string if it fails."""
        done = self._run(*command, cwd=cwd)
        return done.stdout.strip() if done.returncode == 0 else ""

    def _run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = {"SLURM_CONF": str(self.conf), "VENV": str(Path(sys.prefix))}
        return subprocess.run(command, cwd=cwd, env=environment() | path, capture_output=True, text=True, timeout=30)

    def state(self, job: str) -> str:
        """The state of a job: PENDING, RUNNING, COMPLETED …"""
        return self("squeue", "--job", job, "--states", "all", "--noheader", "--format", "%T")

    def hurry(self, job: str) -> bool:
        """Start a requeued job in 15 seconds instead of two minutes. Returns whether Slurm accepts that.

        Not at once: within a second of the job's end, a node would confuse it with the previous one and fail it.
        """
        return self._run("scontrol", "update", f"job={job}", "StartTime=now+15").returncode == 0

    def close(self) -> None:
        """Cancel all jobs and stop the daemons."""
        self("scancel", "--state", "running", "--user", "root")
        until(lambda: not self("squeue", "--states", "running,completing", "--noheader"), 30)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    if os.geteuid() or not (shutil.which("slurmctld") and shutil.which("slurmd")):
        pytest.skip("needs root and Slurm: apt-get install slurm-wlm")
    cluster = Slurm(tmp_path / "slurm")
    try:
        assert until(lambda: cluster("sinfo", "--noheader", "--format", "%t %D") == "idle 2", 30), cluster("sinfo")
        yield cluster
    finally:
        cluster.close()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def tick_of(run: Path) -> int:
    return len(losses_of(run)) if (run / "metrics.jsonl").is_file() else 0


def worker_of(job: str) -> psutil.Process:
    """A stage worker of the job."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == job and "stage_worker" in process.cmdline():
                return process
    raise AssertionError("no stage worker is running")


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_killed_worker_and_a_requeued_job_do_not_change_the_losses(
    videos: Path, tmp_path: Path, slurm: Slurm
) -> None:
    changes = {"stages": 2, "ticks": 1000, "model_args": {"width": 12}, "data__size": 32, "data__slots": 8}
    tree = settings(videos, **changes, checkpoint__every=20, name="it")
    write_run_file(tmp_path / "run.toml", tree)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    nodes = ["--nodes", "2", "--ntasks", "3", "--cpus-per-task", "1"]
    job = slurm("sbatch", "--parsable", *nodes, str(SCRIPT), "run.toml", cwd=tmp_path)
    run, log = tmp_path / "runs/it", tmp_path / f"sideways-{job}.log"

    def log_text() -> str:
        return log.read_text() if log.is_file() else "nothing"

    assert until(lambda: tick_of(run) > 30, 120), log_text()
    worker_of(job).send_signal(signal.SIGKILL)
    assert until(lambda: '"kind": "restart"' in (run / "metrics.jsonl").read_text(), 120), log_text()
    assert until(lambda: tick_of(run) > 200, 120), log_text()
    assert slurm.state(job) == "RUNNING"
    slurm("scancel", "--signal", "USR1", "--batch", job)  # as Slurm does shortly before the time limit
    assert until(lambda: slurm.state(job) == "PENDING", 120), log_text()
    assert until(lambda: not slurm("squeue", "--states", "completing", "--noheader"), 30), log_text()
    assert until(lambda: slurm.hurry(job), 30), log_text()
    assert until(lambda: slurm.state(job) == "COMPLETED", 120), f"{slurm('scontrol', 'show', 'job', job)}\n{log_text()}"
    assert f"job {job} is requeued" in log_text()
    assert not list(run.parent.glob(".launch-*"))
    assert latest_losses(run) == reference_run(config_of(videos, **changes))[0]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_last_tasks_are_readers(
    videos: Path, tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = settings(videos, stages=1, replicas=2, data__slots=4, data__readers=2, ticks=60, name="it")
    write_run_file(tmp_path / "run.toml", tree)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    monkeypatch.setenv("READERS", "2")
    nodes = ["--nodes", "2", "--ntasks", "5", "--cpus-per-task", "1"]
    job = slurm("sbatch", "--parsable", *nodes, str(SCRIPT), "run.toml", cwd=tmp_path)
    log = tmp_path / f"sideways-{job}.log"
    until(lambda: slurm.state(job) in ("COMPLETED", "FAILED"), 200)
    assert slurm.state(job) == "COMPLETED", log.read_text()
    expected, _ = replicated_run(parse(tree, "test"))
    assert [losses_of(tmp_path / "runs/it", replica) for replica in range(2)] == expected


def latest_losses(run: Path) -> list[float]:
    """The loss of every tick; of a tick that was repeated, the latest one."""
    losses: dict[int, float] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        reported, end = line.get("losses", []), line.get("tick", 0) + 1
        losses.update(zip(range(end - len(reported), end), reported, strict=True))
    return [losses[tick] for tick in sorted(losses)]
