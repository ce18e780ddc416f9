"""The steps of the drill: what runs, for how long at most, and how it runs on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One process of the drill.

    Attributes:
        script: what Python runs.
        arguments: of it, on a GPU.
        dry: arguments for a dry run on the CPU; None if the step needs a GPU.
        seconds: its time limit.
    """

    name: str
    script: Sequence[str]
    seconds: float
    arguments: Sequence[str] = ()
    dry: Sequence[str] | None = None


def _module(name: str) -> list[str]:
    return ["-m", f"benchmarks.drill.{name}"]


_TINY = ["--rounds", "1", "--seconds", "0.05"]

STEPS = (
    Step("smoke", _module("smoke"), 60, dry=[]),
    Step("primitives", _module("primitives"), 40),
    Step("exact", _module("exact"), 150, dry=["--device", "cpu", "--stages", "2", "--cases", "classify", "dropout"]),
    Step("faults", _module("faults"), 120, dry=["--device", "cpu", "--faults", "kill-stage0"]),
    Step("memory", _module("memory"), 60, dry=["--device", "cpu", "--ticks", "40", "--stages", "1", "2"]),
    Step(
        "rivals",
        ["benchmarks/gpu.py", "--json"],
        180,
        ["--cases", "resnet18_112_b1", "resnet18_112_b8", "resnet18_112_b32", "--stages", "4", "--rounds", "3"],
        dry=["--device", "cpu", "--cases", "vgg8_16_b2", "--stages", "2", *_TINY],
    ),
    Step("profile", _module("profile"), 60, dry=["--device", "cpu", "--case", "vgg8_16_b2", "--ticks", "4"]),
    Step(
        "peers2",
        ["benchmarks/peers.py", "--json"],
        240,
        ["--stages", "2", "--cases", "vgg8_64_b8", "--rounds", "2", "--seconds", "0.5"],
        dry=["--stages", "2", "--cases", "vgg8_16_b2", *_TINY],
    ),
    Step(
        "peers8",
        ["benchmarks/peers.py", "--json"],
        180,
        ["--stages", "8", "--cases", "vgg8_64_b8", "--rounds", "2", "--seconds", "0.5"],
    ),
    Step(
        "stream",
        ["benchmarks/stream.py", "--json"],
        150,
        ["--threads", "1", "4", "7"],
        dry=["--threads", "1"],
    ),
)
