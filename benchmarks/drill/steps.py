"""The steps of the drill: what runs, for how long at most, and how it runs on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass

DRY = 12  # a dry run may be on few cores, which others use too


@dataclass(frozen=True)
class Step:
    """One process of the drill.

    Attributes:
        script: what Python runs.
        arguments: of it, on a GPU.
        dry: arguments for a dry run on the CPU; None if it is not part of it, as it needs a GPU or many cores.
        seconds: its time limit on a GPU; a dry run may take `DRY` times as long.
    """

    name: str
    script: Sequence[str]
    seconds: float
    arguments: Sequence[str] = ()
    dry: Sequence[str] | None = None


def _module(name: str) -> list[str]:
    return ["-m", f"benchmarks.drill.{name}"]


_TINY = ["--stages", "2", "--rounds", "1", "--seconds", "0.05"]
_QUICK = ["--stages", "4", "--rounds", "3", "--seconds", "0.3"]
_ON_CORES = ["--cases", "vgg8_64_b8", "--rounds", "1", "--seconds", "0.3"]
_BACKPROPAGATION = ["backprop", "backprop graph", "backprop compiled"]
_THROUGHPUT = ["benchmarks/gpu.py", "--json"]
_ON_A_CPU = ["--device", "cpu", "--cases", "vgg8_16_b2"]
_CASES = [
    "classify",
    "every4",
    "autoencode",
    "bfloat16",
    "dropout",
    "motion",
    "channels-last",
    "graph",
    "graph-schedule",
]

STEPS = (
    # what only a GPU shows: the limits add up to less than 8 minutes
    Step("smoke", _module("smoke"), 20, dry=[]),
    Step("primitives", _module("primitives"), 30),
    Step(
        "exact",
        _module("exact"),
        90,
        ["--stages", "1", "2", "4", "--cases", *_CASES],
        dry=["--device", "cpu", "--stages", "2", "--cases", "classify", "dropout", "channels-last"],
    ),
    Step("resume", _module("resume"), 40, dry=["--device", "cpu"]),
    Step("faults", _module("faults"), 80, dry=["--device", "cpu", "--faults", "kill-stage0", "kill-all-stages"]),
    Step(
        "throughput_b1",  # TF32, as in the next one; with graphs and without
        _THROUGHPUT,
        35,
        ["--cases", "resnet18_112_b1", *_QUICK],
        dry=[*_ON_A_CPU, *_TINY],
    ),
    Step("throughput", _THROUGHPUT, 60, ["--cases", "resnet18_112_b8", "resnet18_112_b32", "--unchecked", *_QUICK]),
    Step(
        "throughput_bfloat16",
        _THROUGHPUT,
        30,
        ["--cases", "resnet18_112_b32", "--arithmetic", "bfloat16", "--unchecked", *_QUICK],
        dry=[*_ON_A_CPU, "--arithmetic", "bfloat16", "--unchecked", "--only", "backprop", "partime", *_TINY],
    ),
    Step("throughput_50", _THROUGHPUT, 35, ["--cases", "resnet50_224_b32", "--unchecked", *_QUICK]),
    Step("profile", _module("profile"), 20, dry=["--device", "cpu", "--case", "vgg8_16_b2", "--ticks", "4"]),
    Step(
        "memory",
        _module("memory"),
        30,
        ["--stages", "2", "4"],
        dry=["--device", "cpu", "--ticks", "40", "--stages", "1", "2"],
    ),
)

# what is also worth having: run while there is time
MORE = (
    Step(
        "peers",  # the machine's cores
        ["benchmarks/peers.py", "--json"],
        20,
        ["--stages", "8", *_ON_CORES],
        dry=["--cases", "vgg8_16_b2", *_TINY],
    ),
    Step(
        "throughput_compiled",
        _THROUGHPUT,
        55,
        ["--cases", "resnet18_112_b8", "--unchecked", "--only", *_BACKPROPAGATION, *_QUICK],
    ),
    Step("peers_4", ["benchmarks/peers.py", "--json"], 20, ["--stages", "4", *_ON_CORES]),
    Step("peers_2", ["benchmarks/peers.py", "--json"], 20, ["--stages", "2", *_ON_CORES]),
    Step("stream", ["benchmarks/stream.py", "--json"], 60, ["--threads", "1", "4", "7"], dry=["--threads", "1"]),
    Step(
        "replicas",  # the machine's cores: four runs, each of 8 workers and 8 processes of DistributedDataParallel
        ["benchmarks/replicas.py", "--json"],
        120,
        ["--table", "8", "--rounds", "3", "--seconds", "0.5"],
        dry=["--table", "2", "--case", "vgg8_16_b2", "--rounds", "1", "--seconds", "0.05"],
    ),
)
