"""Measure what slow links between hosts cost: Sideways with edges of several ticks, beside 1F1B.

    python benchmarks/delay.py [--json] [--sleep 20] [--ticks 200] [--rounds 3] [--only 50 loss]

Three stages on three hosts (network namespaces of this machine, linked by tests/faults/network.py; needs root), the
coordinator on that of stage 0. A stage's block sleeps instead of computing, half of the time in the forward and half in
the backward pass. The figure is a tick's time over the slowest stage's compute: 1 if no stage ever waits for another.
Links:

0, 50, 100   so many ms from host to host, activations of 4 KiB
loss         50 ms, and one packet in a hundred lost
loss2        20 ms, and two packets in a hundred lost
narrow       10 ms and 100 Mbit/s, activations of 64 KiB

sideways     network.edge_ticks = "auto": as many ticks an edge as its link was measured to take at the start
sideways-1   edges of one tick, which wait for a round trip
1f1b         torch's schedule with 12 micro-batches; its tick is a micro-batch
simulated    beside the first two: what `sideways ticks --simulate` says of them (coordinator/tools/simulate.py)

Hosts use TCP with BBR congestion control where the kernel has it. Figures are medians over the rounds, after a warm-up.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import CLASSES, ROOT, Bench, config_of, count, python_path, serve, span

STAGES, MICRO_BATCHES, SIZE = 3, 12, 8
PORT = "29517"
ROW = 512  # bytes of a row's activation
CONTENDERS = ("sideways", "sideways-1", "1f1b")
_SIMULATED = {"sideways": ("simulated",), "sideways-1": ("simulated-1",)}


class Link(NamedTuple):
    """Links between hosts: seconds, share of packets lost, bytes a second (0: no limit), and rows of a frame batch."""

    delay: float
    loss: float = 0.0
    rate: float = 0.0
    slots: int = 8


LINKS = {
    "0": Link(0.0),
    "50": Link(0.05),
    "100": Link(0.1),
    "loss": Link(0.05, loss=0.01),
    "loss2": Link(0.02, loss=0.02),
    "narrow": Link(0.01, rate=100e6 / 8, slots=128),
}


def main() -> None:
    """Measure all links and print the figures."""
    arguments = _arguments()
    settings = {name: getattr(arguments, name) for name in ("sleep", "ticks", "rounds", "slots", "contender")}
    if arguments.out:
        serve(arguments.out, partial(_measure, **settings))
        return
    from tests.faults.network import network

    columns = [column for name in arguments.contenders for column in (name, *_SIMULATED.get(name, ()))]
    figures: dict[str, dict[str, Any]] = {column: {} for column in (*columns, "edge_ticks")}
    print("link     " + "".join(f"{column:>14}" for column in columns) + "    ticks of the edges")
    for name in arguments.only:
        link, edges = LINKS[name], ""
        with network(STAGES, link.delay, link.loss, link.rate) as hosts:
            for contender in arguments.contenders:
                options = {**settings, "slots": link.slots, "contender": contender}
                result = _run_on(hosts.names, options)
                figures[contender][name] = round(result["ratio"], 3)
                edges = edges or str(figures["edge_ticks"].setdefault(name, result["edge_ticks"]))
                for column in _SIMULATED.get(contender, ()):
                    figures[column][name] = round(_simulated(link, arguments.sleep, result["edge_ticks"]), 3)
        cells = "".join(f"{figures[column][name]:>14.3f}" for column in columns)
        print(f"{name:<9}{cells}    {edges}", flush=True)
    if arguments.json:
        print(json.dumps(figures))


def _simulated(link: Link, sleep: float, edge_ticks: int | list[int]) -> float:
    """The ratio of a simulated tick to the compute."""
    from common.rule.packet import header_bytes
    from coordinator.tools import simulate

    half = sleep / 2e3
    hosts = [simulate.Host(half, half, rate=link.rate or math.inf)] * STAGES
    size = link.slots * ROW + header_bytes(link.slots)
    ticks = [edge_ticks] * (STAGES - 1) if isinstance(edge_ticks, int) else edge_ticks
    edges = [simulate.Link(each, link.delay, loss=link.loss, size=size) for each in ticks]
    return simulate.simulate(hosts, edges, ticks=4000).tick / hosts[0].compute


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--sleep", type=span, default=20.0, help="milliseconds that a block sleeps per tick")
    parser.add_argument("--ticks", type=count, default=200, help="ticks per round")
    parser.add_argument("--rounds", type=count, default=3, help="number of rounds")
    parser.add_argument("--only", nargs="+", choices=LINKS, default=list(LINKS), help="only these links")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="only these")
    parser.add_argument("--slots", type=count, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, default=CONTENDERS[0], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    return parser.parse_args()


def _run_on(hosts: Sequence[str], options: dict[str, Any]) -> Any:
    """Run this script as a run's coordinator and stages on these hosts. Returns what `_measure` returned."""
    from common.processes.allocator import ALLOCATOR
    from tests.faults.network import address, ip

    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        agents = []
        for node, host in enumerate(hosts):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=bbr")
            variables = {**os.environ, **ALLOCATOR, "PYTHONPATH": python_path(), "SIDEWAYS_ADDRESS": address(node)}
            processes = str(2 if node == 0 else 1)
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts))]
            launcher += ["--node-rank", str(node), "--nproc-per-node", processes, "--master-addr", address(0)]
            program = ["--master-port", PORT, "-m", "benchmarks.delay", "--out", str(out), *given]
            command = ["ip", "netns", "exec", host, *launcher, *program]
            agents.append(subprocess.Popen(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True))
        errors = [agent.communicate()[1] for agent in agents]
        if any(agent.returncode for agent in agents):
            raise SystemExit("".join(errors))
        return json.loads(out.read_text())


def _measure(bench: Bench, sleep: float, ticks: int, rounds: int, slots: int, contender: str) -> dict[str, Any]:
    """The ratio of a tick to the slowest stage's compute, and the ticks of the edges."""
    from common.messages.stage_calls import StageCalls
    from coordinator.run.setup.edge_ticks import with_edge_ticks

    exact = contender == "1f1b"
    changes: dict[str, Any] = {"model_args": {"blocks": STAGES, "milliseconds": sleep}}
    if exact:
        changes |= {"algorithm": "1f1b", "micro_batches": MICRO_BATCHES}
        slots, ticks = slots * MICRO_BATCHES, max(1, ticks // MICRO_BATCHES)
    config = config_of("sleeping", [1] * STAGES, slots, SIZE, **changes)
    edges = "auto" if contender == "sideways" else 1
    config = config.model_copy(update={"network": config.network.model_copy(update={"edge_ticks": edges})})
    costs = bench.stages.call(0, StageCalls.measure, config, CLASSES)
    config = with_edge_ticks(config, CLASSES, config.split or [], costs, bench.stages)
    bench.configure(config)
    bench.run(50 if not exact else 3)
    ratios = []
    for _ in range(rounds):
        totals = bench.run(ticks)
        ratios.append(max(total["seconds"] for total in totals) / max(total["compute_seconds"] for total in totals))
    return {"ratio": median(ratios), "edge_ticks": config.network.edge_ticks}


if __name__ == "__main__":
    main()
