"""Two hosts with a bad link between them: slow and lossy, cut for a moment, or cut for longer than the deadline."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.faults.network import FIRST, SECOND, Network, network
from tests.support.oracles import losses_of, reference_run
from tests.support.processes import environment
from tests.support.settings import config_of, settings, write_run_file

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        bool(os.geteuid()) or not (Path("/dev/net/tun").exists() and shutil.which("ip")),
        reason="needs root, TUN devices and iproute2",
    ),
]


class Cluster:
    """Two torchrun agents with a coordinator and three stages."""

    def __init__(self, wire: Network, folder: Path, tree: dict[str, Any]) -> None:
        run_file = write_run_file(folder / "run.toml", tree)
        self.run = folder / "runs" / "it"
        self._agents = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, *_agent(address), "-m", "coordinator", "join", str(run_file)],
                cwd=folder,
                env={**environment(), "SIDEWAYS_ADDRESS": address, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, address in zip(wire.names, (FIRST, SECOND), strict=True)
        ]

    def wait_for_tick(self, tick: int) -> None:
        """Wait until a stage has reported `tick`."""
        end = time.monotonic() + 90
        while not any(json.loads(text).get("tick", -1) >= tick for text in self._lines()):
            assert time.monotonic() < end, self.end(1)
            time.sleep(0.1)

    def _lines(self) -> list[str]:
        path = self.run / "metrics.jsonl"
        return [text for text in path.read_text().splitlines(True) if text.endswith("\n")] if path.exists() else []

    def end(self, timeout: float) -> list[tuple[int, str]]:
        """Wait for both agents. Returns their exit codes and outputs."""
        results = []
        for agent in self._agents:
            try:
                output = agent.communicate(timeout=timeout)[0]
            except subprocess.TimeoutExpired:
                agent.terminate()  # it stops its workers
                output = "STILL RUNNING\n" + agent.communicate(timeout=60)[0]
            results.append((agent.returncode, output))
        return results


def _agent(address: str) -> list[str]:
    counts = ["--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "3"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{FIRST}:29512", "--rdzv-id", "it"]
    host = ["--rdzv-conf", f"is_host={int(address == FIRST)}", "--local-addr", address]
    return [sys.executable, "-m", "torch.distributed.run", *counts, *rendezvous, *host]


def run(videos: Path, **changes: Any) -> dict[str, Any]:
    return settings(videos, **{"stages": 3, "name": "it", "network__deadline": 8, "checkpoint__every": 20, **changes})


def check(cluster: Cluster, videos: Path, ticks: int, restarts: int) -> None:
    results = cluster.end(120)
    assert [code for code, _ in results] == [0, 0], results
    expected, _ = reference_run(config_of(videos, stages=3, ticks=ticks))
    assert losses_of(cluster.run) == expected
    assert json.loads((cluster.run / "summary.json").read_text())["restarts"] == restarts, results


def test_a_slow_and_lossy_link_changes_nothing(videos: Path, tmp_path: Path) -> None:
    """50 ms in each direction, with one packet in a hundred lost."""
    with network(2, 0.05, 0.01) as wire:
        check(Cluster(wire, tmp_path, run(videos, ticks=40, network__deadline=60)), videos, 40, 0)


def test_edges_take_as_many_ticks_as_their_links_need(videos: Path, tmp_path: Path) -> None:
    """Stage 0 is on the first host, stages 1 and 2 are on the second. What was measured is in run.toml."""
    with network(2, 0.05) as wire:
        cluster = Cluster(wire, tmp_path, run(videos, ticks=80, network__deadline=60, network__edge_ticks="auto"))
        results = cluster.end(120)
    assert [code for code, _ in results] == [0, 0], results
    far, near = tomllib.loads((cluster.run / "run.toml").read_text())["network"]["edge_ticks"]
    assert far > 2
    assert near == 1
    expected, _ = reference_run(config_of(videos, stages=3, ticks=80, network__edge_ticks=[far, near]))
    assert losses_of(cluster.run) == expected


@pytest.mark.parametrize(("seconds", "restarts"), [(2, 0), (12, 1)], ids=["for a moment", "beyond the deadline"])
def test_a_cut_link_is_survived_or_recovered_from(videos: Path, tmp_path: Path, seconds: float, restarts: int) -> None:
    with network(2, 0.005) as wire:
        cluster = Cluster(wire, tmp_path, run(videos, ticks=300))
        cluster.wait_for_tick(30)
        wire.cut(seconds)
        check(cluster, videos, 300, restarts)
