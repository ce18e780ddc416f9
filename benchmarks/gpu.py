"""Compare ways to run the stages on one GPU: processes that share it, streams in one process, and CUDA graphs.

    python benchmarks/gpu.py [--json] [--cases vgg8_112_b8 …] [--stages 2 4] [--rounds 5] [--seconds 1] [--device auto]
                             [--arithmetic tf32] [--only NAME …] [--unchecked]

A case is MODEL_SIZE_bB as in peers.py. For each number of stages D, these contenders alternate in rounds:

backprop         forward, backward and update in one process
streams          a tick of D stages in one process, each on its own stream (benchmarks/streams.py)
partime          PARTIME's scheme: a step of D stages on streams that join, without a gate (benchmarks/partime.py)
workers          the product: D stages on the same GPU, in as many processes as it chooses: one
backprop graph   backprop's step as one CUDA graph
streams graph    streams' tick as one CUDA graph whose branches are the stages
partime graph    PARTIME's step as one CUDA graph, as it is meant to run
workers graph    the product with graph = true, measured after the others; "replaying" says for each stage whether its
                 ticks are replays, or it went on without
backprop compiled    backprop with torch.compile, which takes a minute: only if --only names it

All read the same frames from the host at every tick, and use the same optimiser and the split that the product chooses.
Stage worker 0 receives its frames from another process, and waits for their copy to the GPU. The figures are frames per
second, and medians over the rounds of the ratios within a round. --arithmetic: convolutions and matrix products in
TF32, in float32, or autocast to bfloat16.

First, unless --unchecked, the streams are compared with the one-process reference after some ticks in which clips end:
the largest difference between parameters divided by the largest parameter, in float32 without TF32, with deterministic
algorithms where CUDA has them. The difference from the reference on the same device must be 0; that from the reference
on the CPU shows how differently the kernels round. Without a GPU, or with --device cpu, the graphs are left out.
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

from benchmarks.bench import CLASSES, Bench, config_of, count, draw, run_script, serve, span, tick_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from benchmarks.contenders import Case
    from benchmarks.partime import Partime
    from benchmarks.streams import Streams
    from common.config.settings import Config

CASES = ("vgg8_112_b8", "resnet18_112_b8")
ARITHMETIC = ("tf32", "float32", "bfloat16")
_EAGER = ("backprop", "streams", "partime", "workers")
FORMS = (*_EAGER, *(f"{kind} graph" for kind in _EAGER), "backprop compiled")
CHECKED = 24  # ticks after the pipeline is full, before parameters are compared


def main() -> None:
    """Measure all cases and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="MODEL_SIZE_bB", help=f"such as {CASES[0]}")
    parser.add_argument("--stages", type=count, nargs="+", default=[2, 4], help="numbers of stages D to measure")
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds")
    parser.add_argument("--seconds", type=span, default=1.0, help="approximate duration of a contender's round")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: CUDA if available, else the CPU"
    )
    parser.add_argument("--arithmetic", choices=ARITHMETIC, default="tf32")
    parser.add_argument("--unchecked", action="store_true", help="do not compare the streams with the reference")
    parser.add_argument("--only", choices=FORMS, nargs="+", help="only these contenders")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("rounds", "seconds", "device", "arithmetic")}
    if arguments.out:
        more = {"only": arguments.only, "checked": not arguments.unchecked}
        work = partial(_measure, name=arguments.cases[0], **more, **options)
        serve(arguments.out, work, stages=arguments.stages[0])
        return
    _check(parser, arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by deterministic matrix products
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    words += ["--unchecked"] if arguments.unchecked else []
    words += ["--only", *arguments.only] if arguments.only else []
    figures: dict[str, Any] = {}
    for name in arguments.cases:
        for stages in arguments.stages:
            result = run_script(
                _processes(stages, options["device"]), "gpu", "--cases", name, "--stages", str(stages), *words
            )
            figures.setdefault(name, {})[str(stages)] = case_figures = _figures(result)
            _print(f"{name}, {stages} stages", result, case_figures)
    if arguments.json:
        print(json.dumps(figures))


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    from benchmarks.contenders import Case
    from coordinator.launch.stage_processes import count_gpus

    for name in arguments.cases:
        if Case.of(name) is None:
            parser.error(f"--cases {name}: expected MODEL_SIZE_bB, such as {CASES[0]}")
    if min(arguments.stages) < 2:
        parser.error("--stages 1 is backpropagation, which is always measured: give 2 or more")
    if arguments.device == "cuda" and not count_gpus():
        parser.error("--device cuda: this host has no CUDA device; omit the option or give cpu")


def _processes(stages: int, device: str) -> int:
    """In how many processes the product would run the stages."""
    from coordinator.launch.stage_processes import stage_processes

    return stage_processes(config_of("vgg8", [1] * stages, 1, 32, device=device))


# ---- in the coordinator


def _measure(
    bench: Bench,
    name: str,
    rounds: int,
    seconds: float,
    device: str,
    arithmetic: str,
    only: list[str] | None,
    checked: bool,
) -> dict[str, Any]:
    import torch

    from benchmarks.contenders import Case
    from common.messages.stage_calls import StageCalls

    torch.set_num_threads(1)  # as in the workers
    target = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    case = Case.of(name)
    assert case is not None
    config = _config(bench, case, target)
    differences = differences_of(config, target) if checked else {}
    config = _use(arithmetic, config)
    chosen = _forms(target, only)
    contenders = {kind: _in_process(_form(config, kind), target, kind) for kind in chosen if "workers" not in kind}
    if "workers" in chosen:
        contenders["workers"] = _workers(bench, config)
    rates, replaying = _rates(contenders, config, rounds, seconds), []
    if "workers graph" in chosen:  # the workers are built anew, which is too slow for each round
        graphs = _workers(bench, config.model_copy(update={"graph": True}))
        rates |= _rates({"workers graph": graphs}, config, rounds, seconds)
        replaying = bench.stages.call_all(StageCalls.replays_graphs)
    result = {"device": _name(target), "split": config.split, "rates": rates, "differences": differences}
    return {**result, "replaying": replaying}


def _rates(
    contenders: "dict[str, Callable[[int], float]]", config: "Config", rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Frames per second of each contender in each round."""
    for run in contenders.values():
        run(_warm(config))
    steps = {kind: max(1, round(seconds / run(8) * 8)) for kind, run in contenders.items()}
    rates: dict[str, list[float]] = {kind: [] for kind in contenders}
    for _ in range(rounds):
        for kind, run in contenders.items():
            rates[kind].append(steps[kind] * config.data.slots / run(steps[kind]))
    return rates


def _use(arithmetic: str, config: "Config") -> "Config":
    """The settings of a kind of arithmetic, which this process uses from now on too."""
    import torch

    tf32 = arithmetic != "float32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # as in the workers
    precision = "bfloat16" if arithmetic == "bfloat16" else "float32"
    return config.model_copy(update={"tf32": tf32, "precision": precision})


def _config(bench: Bench, case: "Case", device: "torch.device") -> "Config":
    """The settings of a case, with the split that the product chooses on this device."""
    # all contenders have maps in one order: streams and PARTIME's scheme know no other
    how = {"device": device.type, "memory_format": "contiguous"}
    one_each = config_of(case.model, [1] * bench.count, case.slots, case.size, **how)
    return one_each.model_copy(update={"split": bench.choose(one_each)})


def _forms(device: "torch.device", only: list[str] | None = None) -> list[str]:
    """The names of the contenders that are measured: those that are asked for, or all but what takes a minute."""
    possible = FORMS if device.type == "cuda" else (*_EAGER, "backprop compiled")
    return [kind for kind in possible if (kind in only if only else kind != "backprop compiled")]


def _form(config: "Config", kind: str) -> "Config":
    from common.config.settings import Optimiser

    if config.device == "cuda":  # capturable: the optimiser's step counter is on the device too
        config = config.model_copy(update={"optimiser": Optimiser(args={"fused": True, "capturable": True})})
    if "backprop" not in kind:
        return config
    assert config.split is not None
    compiled = kind == "backprop compiled"
    return config.model_copy(update={"stages": 1, "split": [sum(config.split)], "compile": compiled})


def _in_process(config: "Config", device: "torch.device", kind: str) -> "Callable[[int], float]":
    """A function that runs a number of ticks and returns the seconds that they took."""
    import torch

    streams = _full(config, device, kind)
    frames, clips_labels = _inputs(config, device)
    clips_labels[0] = torch.arange(config.data.slots)  # one endless clip per slot

    def run(ticks: int) -> float:
        streams.synchronize()
        start = time.perf_counter()
        for _ in range(ticks):
            streams.tick(frames, clips_labels)
        streams.synchronize()
        return time.perf_counter() - start

    return run


def _workers(bench: Bench, config: "Config") -> "Callable[[int], float]":
    """As `_in_process`. No other contender uses the stage workers, so they are built and filled only once."""
    bench.configure(config)
    bench.run(_warm(config))
    return lambda ticks: tick_ms(bench.run(ticks), 1) / 1e3


def _full(config: "Config", device: "torch.device", kind: str) -> "Streams | Partime":
    """A warm pipeline: every stage has had a gradient."""
    from benchmarks.partime import Partime
    from benchmarks.streams import Streams

    streams = (Partime if "partime" in kind else Streams)(config, CLASSES, device)
    _play_on(streams, config, device, range(_warm(config)))
    if kind.endswith("graph"):
        streams.capture()
    return streams


def _warm(config: "Config") -> int:
    return 2 * config.stages + 2


def _inputs(config: "Config", device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
    """Frames, and clips and labels (int64 [2, slots]), in the host's memory, pinned if the device is a GPU."""
    import torch

    frames, labels = (torch.from_numpy(array) for array in draw(config))
    clips_labels = torch.stack([torch.zeros_like(labels), labels])
    return (frames.pin_memory(), clips_labels.pin_memory()) if device.type == "cuda" else (frames, clips_labels)


def _play_on(streams: "Streams | Partime", config: "Config", device: "torch.device", ticks: range) -> None:
    frames, clips_labels = _inputs(config, device)
    for tick in ticks:
        _play(clips_labels, tick)
        streams.tick(frames, clips_labels)
        streams.synchronize()  # before the next clips are written


def _play(clips_labels: "torch.Tensor", tick: int) -> None:
    """Write each slot's clip at a tick. The clips of slot s have 5 + s frames."""
    for slot in range(clips_labels.shape[1]):
        clips_labels[0, slot] = 1000 * slot + tick // (5 + slot)


# ---- comparison with the reference


def differences_of(config: "Config", device: "torch.device") -> dict[str, dict[str, float]]:
    """How far the streams' parameters are from the reference's after some ticks, relative to the largest parameter.

    Returns the differences by contender, then by the reference's device: "cpu" or "same device".
    """
    import torch

    from common.config.settings import Optimiser

    # not Adam: it divides by the gradient's size, so gradients that are only rounding errors would count in full
    config = config.model_copy(update={"optimiser": Optimiser(name="SGD", lr=0.02)})
    with _deterministic():
        on_cpu = by_reference(config, torch.device("cpu"))
        on_device = on_cpu if device.type == "cpu" else by_reference(config, device)
        actual = {kind: by_streams(config, device, kind) for kind in _forms(device) if "streams" in kind}
    return {
        kind: {"cpu": _distance(values, on_cpu), "same device": _distance(values, on_device)}
        for kind, values in actual.items()
    }


def _distance(actual: "list[torch.Tensor]", expected: "list[torch.Tensor]") -> float:
    """The largest difference divided by the largest expected value; NaN if any value is NaN."""
    import torch

    largest = torch.stack([value.abs().max() for value in expected]).max()
    difference = torch.stack([(a - e).abs().max() for a, e in zip(actual, expected, strict=True)]).max()
    return float(difference / largest)


def by_streams(config: "Config", device: "torch.device", kind: str = "streams") -> "list[torch.Tensor]":
    """The parameters after the pipeline is full and CHECKED more ticks, trained on streams."""
    streams = _full(config, device, kind)
    _play_on(streams, config, device, range(_warm(config), _warm(config) + CHECKED))
    return [value.detach().cpu() for stage in streams.stages for value in stage.blocks.parameters()]


def by_reference(config: "Config", device: "torch.device") -> "list[torch.Tensor]":
    """The same parameters, trained by the one-process reference with the workers' stages and packets."""
    import torch

    from common.models import build, part
    from common.rule.packet import Packet
    from common.rule.pixels import Normaliser
    from common.rule.reference import Reference
    from common.rule.stage import Stage

    assert config.split is not None
    model, packet = build(config, CLASSES).to(device), partial(Packet, device=device)
    stages = [Stage(part(model, config.split, index), index, config) for index in range(config.stages)]
    reference, frame = Reference(stages, config.frame_shape, packet=packet), packet(config.frame_shape)
    frames, clips_labels = _inputs(config, torch.device("cpu"))
    for tick in range(_warm(config) + CHECKED):
        _play(clips_labels, tick)
        Normaliser(*config.data.normalisation, device)(frame.tensor, frames.to(device))
        frame.set_header(tick, tick)
        frame.clips[:], frame.labels[:] = clips_labels.numpy()
        reference.tick(frame)
    return [value.detach().cpu() for stage in stages for value in stage.blocks.parameters()]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Turn off TF32 and turn on deterministic algorithms, where there are any."""
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

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU, without streams and graphs"


# ---- output


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """Frames per second by contender, and their ratios to backpropagation's in the same round."""
    rates = result["rates"]
    bases = [kind for kind in ("backprop", "backprop graph", "partime graph") if kind in rates]
    rows = {
        kind: {"frames_per_second": round(median(own), 1)}
        | {f"vs {base}": round(median(a / b for a, b in zip(own, rates[base], strict=True)), 3) for base in bases}
        for kind, own in rates.items()
    }
    named = {name: result[name] for name in ("device", "differences", "replaying")}
    return {"contenders": rows, **named}


def _print(title: str, result: dict[str, Any], figures: dict[str, Any]) -> None:
    print(f"\n{title}, split {'+'.join(map(str, result['split']))}, on {result['device']}")
    for kind, row in figures["contenders"].items():
        ratios = "   ".join(f"{value:.2f} × {name[3:]}" for name, value in row.items() if name.startswith("vs "))
        print(f"{kind:<17} {row['frames_per_second']:>9.1f} frames/s   {ratios}")
    if not all(figures["replaying"]):
        print(f"workers graph: not all stages replay their ticks: {figures['replaying']}")
    for kind, by_device in figures["differences"].items():
        differences = ", ".join(f"{value:.1g} ({device})" for device, value in by_device.items())
        print(f"{kind}: largest relative difference from the reference's parameters: {differences}")


if __name__ == "__main__":
    main()
