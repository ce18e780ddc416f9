"""What one GPU makes of the stages: processes that share it, streams of one process, and CUDA graphs.

    python benchmarks/gpu.py [--json] [--cases vgg8_112_b8 …] [--stages 2 4] [--rounds 5] [--seconds 1] [--device auto]

A case is MODEL_SIZE_bB as in peers.py. For each number of stages D, in turn within one run:

backprop         forward, backward and update in one process
streams          a tick of D stages in one process, each on a stream of its own (benchmarks/streams.py)
workers          the product: D stage workers on the same GPU, activations by way of pinned host memory
backprop graph   the step as one CUDA graph
streams graph    the tick as one CUDA graph, whose branches are the stages

All take the same frames from the host at every tick, with the same optimiser and the split that the product chooses;
the first stage worker's come from another process, and by a copy that it waits for. Figures are frames a second, and
the medians over the rounds of their ratios of the same round. Processes that share a GPU take turns on it, unless
NVIDIA's MPS runs.

Before that the streams are compared with the one-process reference after some ticks with clips that end: the largest
difference of a parameter over the largest parameter, in float32 without TF32, with deterministic algorithms where CUDA
has them. From the reference on the same device it must be 0; from that on the CPU it is what other kernels round
otherwise. Where there is no GPU, or with --device cpu, graphs are left out.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench import CLASSES, Bench, config_of, count, draw, launch, serve, span, tick_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from benchmarks.contenders import Case
    from benchmarks.streams import Streams
    from common.config.settings import Config

CASES = ("vgg8_112_b8", "resnet18_112_b8")
CHECKED = 24  # ticks, after the pipeline is full


def main() -> None:
    """Run all of it and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one last line")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL_SIZE_bB", help=f"such as {CASES[0]}")
    parser.add_argument("--stages", type=count, nargs="+", default=[2, 4], help="D")
    parser.add_argument("--rounds", type=count, default=5, help="rounds that the medians are of")
    parser.add_argument("--seconds", type=span, default=1.0, help="of a contender in a round, about")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: CUDA where there is one"
    )
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("rounds", "seconds", "device")}
    if arguments.out:
        serve(arguments.out, partial(_measure, name=arguments.cases[0], **given))
        return
    _check(parser, arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic matrix products ask for
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    figures: dict[str, Any] = {}
    for name in arguments.cases:
        for stages in arguments.stages:
            found = launch(stages, "gpu", "--cases", name, *words)
            figures.setdefault(name, {})[str(stages)] = figured = _figures(found)
            _print(f"{name}, {stages} stages", found, figured)
    if arguments.json:
        print(json.dumps(figures))


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    import torch

    from benchmarks.contenders import Case

    for name in arguments.cases:
        if Case.of(name) is None:
            parser.error(f"--cases {name}: write MODEL_SIZE_bB, such as {CASES[0]}")
    if min(arguments.stages) < 2:
        parser.error("--stages 1 is backpropagation, which is measured anyhow: give 2 or more")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but this host has no CUDA device: leave it out, or give cpu")


# ---- in the coordinator


def _measure(bench: Bench, name: str, rounds: int, seconds: float, device: str) -> dict[str, Any]:
    import torch

    from benchmarks.contenders import Case

    torch.set_num_threads(1)  # on the CPU, as the workers have
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    case = Case.of(name)
    assert case is not None
    config = _config(bench, case, where)
    differences = differences_of(config, where)
    contenders = {kind: _in_process(_form(config, kind), where, kind.endswith("graph")) for kind in _forms(where)}
    contenders["workers"] = _workers(bench, config)
    for run in contenders.values():
        run(_warm(config))
    steps = {kind: max(1, round(seconds / run(8) * 8)) for kind, run in contenders.items()}
    rates: dict[str, list[float]] = {kind: [] for kind in contenders}
    for _ in range(rounds):
        for kind, run in contenders.items():
            rates[kind].append(steps[kind] * case.slots / run(steps[kind]))
    return {"device": _name(where), "split": config.split, "rates": rates, "differences": differences}


def _config(bench: Bench, case: "Case", device: "torch.device") -> "Config":
    """With the split that the product chooses on this device."""
    one_each = config_of(case.model, [1] * bench.count, case.slots, case.size, device=device.type)
    return one_each.model_copy(update={"split": bench.choose(one_each)})


def _forms(device: "torch.device") -> list[str]:
    """Of the contenders in one process."""
    eager = ["backprop", "streams"]
    return eager + [f"{kind} graph" for kind in eager] if device.type == "cuda" else eager


def _form(config: "Config", kind: str) -> "Config":
    from common.config.settings import Optimiser

    if config.device == "cuda":  # the step's number on the device too
        config = config.model_copy(update={"optimiser": Optimiser(args={"fused": True, "capturable": True})})
    if "streams" in kind:
        return config
    assert config.split is not None
    return config.model_copy(update={"stages": 1, "split": [sum(config.split)]})


def _in_process(config: "Config", device: "torch.device", graph: bool) -> "Callable[[int], float]":
    """Seconds for so many ticks."""
    import torch

    streams = _full(config, device, graph)
    frames, whose = _inputs(config, device)
    whose[0] = torch.arange(config.data.slots)  # a clip a slot, that does not end

    def run(ticks: int) -> float:
        streams.synchronize()
        start = time.perf_counter()
        for _ in range(ticks):
            streams.tick(frames, whose)
        streams.synchronize()
        return time.perf_counter() - start

    return run


def _workers(bench: Bench, config: "Config") -> "Callable[[int], float]":
    """Seconds for so many ticks. The bench's processes are theirs alone, so they are built and filled once."""
    bench.configure(config)
    bench.run(_warm(config))
    return lambda ticks: tick_ms(bench.run(ticks), 1) / 1e3


def _full(config: "Config", device: "torch.device", graph: bool) -> "Streams":
    """A pipeline in which every stage has a gradient."""
    from benchmarks.streams import Streams

    streams = Streams(config, CLASSES, device)
    _play_on(streams, config, device, range(_warm(config)))
    if graph:
        streams.capture()
    return streams


def _warm(config: "Config") -> int:
    return 2 * config.stages + 2


def _inputs(config: "Config", device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
    """Frames, and each slot's clip and label, on the host."""
    import torch

    frames, labels = (torch.from_numpy(array) for array in draw(config))
    whose = torch.stack([torch.zeros_like(labels), labels])
    return (frames.pin_memory(), whose.pin_memory()) if device.type == "cuda" else (frames, whose)


def _play_on(streams: "Streams", config: "Config", device: "torch.device", ticks: range) -> None:
    frames, whose = _inputs(config, device)
    for tick in ticks:
        _play(whose, tick)
        streams.tick(frames, whose)
        streams.synchronize()  # before the next clips are written


def _play(whose: "torch.Tensor", tick: int) -> None:
    """Each slot's clips have another length, 5 frames and more."""
    for slot in range(whose.shape[1]):
        whose[0, slot] = 1000 * slot + tick // (5 + slot)


# ---- whether they are right


def differences_of(config: "Config", device: "torch.device") -> dict[str, dict[str, float]]:
    """Of the streams' parameters after some ticks from the reference's, over the largest of them.

    By form, eager or as a graph, and by where the reference computed: on the CPU or on the same device.
    """
    import torch

    from common.config.settings import Optimiser

    # with Adam, which divides by it, a gradient of rounding errors would count as much as any other
    config = config.model_copy(update={"optimiser": Optimiser(name="SGD", lr=0.02)})
    with _deterministic():
        on_cpu = by_reference(config, torch.device("cpu"))
        here = on_cpu if device.type == "cpu" else by_reference(config, device)
        forms = {kind: by_streams(config, device, "graph" in kind) for kind in _forms(device) if "streams" in kind}
    return {
        kind: {"cpu": _distance(found, on_cpu), "same device": _distance(found, here)} for kind, found in forms.items()
    }


def _distance(found: "list[torch.Tensor]", wanted: "list[torch.Tensor]") -> float:
    """NaN where there is one."""
    import torch

    largest = torch.stack([value.abs().max() for value in wanted]).max()
    apart = torch.stack([(one - other).abs().max() for one, other in zip(found, wanted, strict=True)]).max()
    return float(apart / largest)


def by_streams(config: "Config", device: "torch.device", graph: bool) -> "list[torch.Tensor]":
    """The parameters after some ticks."""
    streams = _full(config, device, graph)
    _play_on(streams, config, device, range(_warm(config), _warm(config) + CHECKED))
    return [value.detach().cpu() for stage in streams.stages for value in stage.blocks.parameters()]


def by_reference(config: "Config", device: "torch.device") -> "list[torch.Tensor]":
    """The same of the stages and packets that the workers have."""
    import torch

    from common.models import build, part
    from common.rule.packet import Packet
    from common.rule.pixels import normalise
    from common.rule.reference import Reference
    from common.rule.stage import Stage

    assert config.split is not None
    model, packet = build(config, CLASSES).to(device), partial(Packet, compute=device)
    stages = [Stage(part(model, config.split, index), index, config) for index in range(config.stages)]
    reference, frame = Reference(stages, config.frame_shape, packet=packet), packet(config.frame_shape)
    frames, whose = _inputs(config, torch.device("cpu"))
    for tick in range(_warm(config) + CHECKED):
        _play(whose, tick)
        normalise(frame.tensor, frames.to(device), config.data.mean, config.data.std)
        frame.set_header(tick, tick)
        frame.clips[:], frame.labels[:] = whose.numpy()
        reference.tick(frame)
    return [value.detach().cpu() for stage in stages for value in stage.blocks.parameters()]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Without TF32, and with deterministic algorithms where there are any."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU: streams are none, graphs left out"


# ---- in the terminal


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    """By contender: frames a second, and how often backpropagation's of the same round."""
    rates = found["rates"]
    bases = [kind for kind in ("backprop", "backprop graph") if kind in rates]
    rows = {
        kind: {"frames_per_second": round(median(own), 1)}
        | {f"vs {base}": round(median(a / b for a, b in zip(own, rates[base], strict=True)), 3) for base in bases}
        for kind, own in rates.items()
    }
    return {"device": found["device"], "contenders": rows, "differences": found["differences"]}


def _print(title: str, found: dict[str, Any], figures: dict[str, Any]) -> None:
    print(f"\n{title}, split {'+'.join(map(str, found['split']))}, on {found['device']}")
    for kind, row in figures["contenders"].items():
        ratios = "   ".join(f"{value:.2f} × {name[3:]}" for name, value in row.items() if name.startswith("vs "))
        print(f"{kind:<15} {row['frames_per_second']:>9.1f} frames/s   {ratios}")
    for kind, places in figures["differences"].items():
        print(f"{kind}: parameters differ from the reference's by " + _listed(places))


def _listed(places: dict[str, float]) -> str:
    return ", ".join(f"{value:.1g} ({place})" for place, value in places.items())


if __name__ == "__main__":
    main()
