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

from tests.faults.network import FIRST, address, network
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

    def start(self, host: int) -> None:
        """Start a torchrun of two processes on a host; the first has the coordinator."""
        variables = {"SIDEWAYS_ADDRESS": address(host), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        counts = ["--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "3", "--local-addr", address(host)]
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29513", "--rdzv-id", "it"]
        conf = ["--rdzv-conf", f"is_host={int(host == 0)}"]
        program = ["-m", "coordinator", "join", str(self.folder / "run.toml")]
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
