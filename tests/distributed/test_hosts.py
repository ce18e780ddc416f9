"""Two hosts: network namespaces on this machine, connected by virtual interfaces. Needs root and iproute2."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.network import ip
from tests.support.oracles import losses_of, reference_run
from tests.support.processes import environment
from tests.support.settings import config_of, settings, write_run_file

FIRST, SECOND = "10.77.0.1", "10.77.0.2"


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, with the addresses FIRST and SECOND."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = f"sw{os.getpid()}a", f"sw{os.getpid()}b"
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    ip("netns", "add", names[1])
    ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
    for name, address in zip(names, (FIRST, SECOND), strict=True):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", "veth0")
        ip("-n", name, "link", "set", "veth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield names
    for name in names:
        ip("netns", "del", name)


def agent(host: str, address: str, node: int, processes: int, run_file: Path, *arguments: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)]
    rendezvous = ["--nproc-per-node", str(processes), "--master-addr", FIRST, "--master-port", "29511"]
    program = ["-m", "coordinator", "join", str(run_file), *arguments]
    return ["ip", "netns", "exec", host, "env", f"SIDEWAYS_ADDRESS={address}", *launcher, *rendezvous, *program]


@pytest.mark.long
def test_a_run_on_two_hosts_equals_the_reference(videos: Path, tmp_path: Path, hosts: tuple[str, str]) -> None:
    """The coordinator and a stage are on one host, two stages on the other; frames and reports are encrypted."""
    tree = settings(videos, stages=3, ticks=60, name="it")
    run_file = write_run_file(tmp_path / "run.toml", tree)
    commands = [agent(hosts[0], FIRST, 0, 2, run_file, "--json"), agent(hosts[1], SECOND, 1, 2, run_file)]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert json.loads(outputs[0][0].splitlines()[-1])["ticks"] == 60
    expected, _ = reference_run(config_of(videos, stages=3, ticks=60))
    assert losses_of(tmp_path / "runs" / "it") == expected
