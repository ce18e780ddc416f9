"""A host is gone for good, with all its processes and its memory: another takes its place, and the run goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from common.config.run_file import parse
from common.config.settings import Config
from tests.faults.network import FIRST, address, network
from tests.support.oracles import losses_of, replicated_run
from tests.support.processes import environment
from tests.support.settings import slow_run, write_run_file

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        bool(os.geteuid()) or not (Path("/dev/net/tun").exists() and shutil.which("ip")),
        reason="needs root, TUN devices and iproute2",
    ),
]

OWN_MEMORY = 'mount -t tmpfs -o size=512m tmpfs /dev/shm && exec "$@"'


class Hosts:
    """Three hosts, each with its own /dev/shm: a run on the first two, the third is to take the place of one."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names, self.folder, self.agents = names, folder, dict[int, subprocess.Popen[str]]()

    def start(self, host: int, *what: str) -> None:
        """Start a torchrun of two processes on a host; the first has the coordinator. `what`: else the run file."""
        variables = {"SIDEWAYS_ADDRESS": address(host), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        counts = ["--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "3", "--local-addr", address(host)]
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29513", "--rdzv-id", "it"]
        conf = ["--rdzv-conf", f"is_host={int(host == 0)}"]
        program = ["-m", "coordinator", "join", *(what or (str(self.folder / "run.toml"),))]
        agent = [sys.executable, "-m", "torch.distributed.run", *counts, *rendezvous, *conf, *program]
        with open(self.folder / f"log{host}", "w") as log:
            self.agents[host] = subprocess.Popen(
                ["ip", "netns", "exec", self.names[host], "sh", "-c", OWN_MEMORY, "sh", *agent],
                cwd=self.folder,
                env={**environment(), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def lose(self, host: int) -> None:
        """Kill everything on a host; with its last process its memory is gone."""
        processes = [psutil.Process(self.agents[host].pid)]
        processes += processes[0].children(recursive=True)
        for process in processes:
            process.kill()
        self.agents.pop(host).wait()

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl so far."""
        path = self.folder / "runs/it/metrics.jsonl"
        lines = path.read_text().splitlines(True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for such a line of metrics.jsonl, and return it."""
        end = time.monotonic() + 90
        while not (lines := [line for line in self.metrics() if found(line)]):
            assert time.monotonic() < end, self.output()
            time.sleep(0.1)
        return lines[-1]

    def output(self) -> str:
        """What all hosts have printed."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("log*")))

    def end(self) -> list[int]:
        """Wait for the run's end. Returns the agents' exit codes."""
        return [agent.wait(150) for agent in self.agents.values()]

    def stop(self) -> None:
        """End what still runs."""
        for agent in self.agents.values():
            agent.send_signal(signal.SIGTERM)
        for agent in self.agents.values():
            agent.wait(60)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with network(3, 0.0) as wire:
        found = Hosts(wire.names, tmp_path)
        yield found
        found.stop()


def test_the_stages_of_a_lost_host_heal_from_the_copies_on_another(videos: Path, hosts: Hosts) -> None:
    heal = {"recovery__mode": "heal", "recovery__snapshot_every": 30, "report__every": 0.05}
    tree = slow_run(videos, **heal, network__deadline=8, ticks=10**6, checkpoint__every=10**6)
    write_run_file(hosts.folder / "run.toml", tree)
    hosts.start(0)
    hosts.start(1)
    reached = hosts.wait_for(lambda line: line.get("tick", 0) >= 150)["tick"]
    hosts.lose(1)
    hosts.start(2)
    healed = hosts.wait_for(lambda line: line["kind"] == "heal")
    assert set(healed["lost_ticks"]) == {"1", "2"}
    assert all(0 < ticks <= 30 + 30 for ticks in healed["lost_ticks"].values()), healed
    assert healed["tick"] >= reached
    hosts.wait_for(lambda line: line.get("tick", 0) >= healed["tick"] + 50)


MEMORY = "what all processes kept in memory"
EXACT = {"ticks": 400, "network__deadline": 8, "report__every": 0.05}


@pytest.mark.parametrize(
    ("changes", "origin"),
    [
        ({"recovery__snapshot_every": 30, "checkpoint__every": 10**6}, MEMORY),
        ({"checkpoint__every": 50}, "{folder}/runs/it/checkpoints"),
        ({"recovery__snapshot_every": 30, "checkpoint__every": 10**6, "stages": 1, "replicas": 3}, MEMORY),
    ],
    ids=["snapshots", "checkpoint", "replicas"],
)
def test_an_exact_run_ends_as_if_no_host_had_been_lost(
    videos: Path, hosts: Hosts, changes: dict[str, Any], origin: str
) -> None:
    """From the copies of the lost host's snapshots on the other one, or from a checkpoint in the shared folder."""
    tree = slow_run(videos, **{**EXACT, "data__slots": 6, **changes})
    config = parse(tree, "test")
    write_run_file(hosts.folder / "run.toml", tree)
    hosts.start(0)
    hosts.start(1)
    hosts.wait_for(lambda line: line.get("tick", 0) >= 150)
    hosts.lose(1)
    hosts.start(2)
    back = hosts.wait_for(lambda line: line["kind"] == "restart")
    assert back["tick"] > 60, hosts.output()  # it did not start from the beginning
    assert hosts.end() == [0, 0], hosts.output()
    assert f"resumed from {origin.format(folder=hosts.folder)}" in hosts.output()
    as_undisturbed(hosts.folder / "runs/it", config)


def as_undisturbed(run: Path, config: Config) -> None:
    """Assert that the run has the losses and parameters of the one-process reference."""
    expected, parameters = replicated_run(config)
    assert [losses_of(run, replica) for replica in range(config.replicas)] == expected
    trained = load_file(run / "model.safetensors")
    assert not [name for name in parameters if not torch.equal(trained[name], parameters[name])]


def test_without_the_coordinators_host_the_run_ends_and_others_resume_it(videos: Path, hosts: Hosts) -> None:
    """Where the processes met is gone with it, and so is what they keep in memory: the checkpoints are not."""
    tree = slow_run(videos, **EXACT, checkpoint__every=50)
    write_run_file(hosts.folder / "run.toml", tree)
    hosts.start(0)
    hosts.start(1)
    hosts.wait_for(lambda line: line.get("tick", 0) >= 150)
    hosts.lose(0)
    assert hosts.agents.pop(1).wait(120) != 0
    assert f"If its host, {FIRST}, is lost for good, start the run again on others with --resume" in hosts.output()
    hosts.start(0, "--resume", "runs/it")
    hosts.start(2, "--resume", "runs/it")
    assert hosts.end() == [0, 0], hosts.output()
    as_undisturbed(hosts.folder / "runs/it", parse(tree, "test"))
