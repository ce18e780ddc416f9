"""Stage workers on one GPU against the one-process reference on the same GPU: equal, bit for bit.

    python -m benchmarks.drill.exact [--device cuda] [--stages 1 2 4] [--cases NAME …]

With every number of stages, both as a process each, which exchange tensors by CUDA IPC, and as streams of one process.
Without TF32 and with deterministic algorithms, every loss and every parameter is compared after 60 ticks of clips that
end at different times. Beside that, the distance of the parameters from the reference on the CPU after 20 ticks, over
the largest of them: what other kernels round otherwise, which must stay small.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.bench import ROOT, python_path, start
from benchmarks.drill.together import together
from common.config.settings import Config
from common.rule.loss import Target
from common.rule.packet import Packet
from common.rule.reference import Reference, build_stages
from tests.support.oracles import inputs_of, weights_of
from tests.support.settings import settings
from tests.support.videos import write_clip

CASES: dict[str, dict[str, object]] = {
    "classify": {},
    "every4": {"rule__every": 4},
    "mix": {"rule__boundary": "mix"},
    "autoencode": {"task": "autoencode", "model": "autoencoder"},
    "bfloat16": {"precision": "bfloat16"},
    "dropout": {"model": f"{ROOT}/tests/support/models.py:with_dropout", "model_args": {}},
    "motion": {"model_args": {"width": 4, "temporal": "motion"}},
    "gloo": {"network__transport": "gloo"},
    "channels-last": {"model_args": {"width": 4, "norm": "batch"}, "memory_format": "channels_last"},
    "graph": {"model": f"{ROOT}/tests/support/models.py:with_dropout", "model_args": {}, "graph": True},
    "graph-schedule": {"graph": True, "optimiser__schedule": "cosine", "optimiser__clip": 0.1, "precision": "bfloat16"},
}
_WITH_DROPOUT, _OF_GPUS = ("dropout", "graph"), ("graph", "graph-schedule")
_UNBOUNDED = ("bfloat16", "graph-schedule", *_WITH_DROPOUT)  # a GPU draws other dropout masks than a CPU
_SPLITS = {1: [5], 2: [2, 3], 4: [1, 1, 1, 2]}  # of the model with dropout
TICKS, TICKS_FROM_CPU = 60, 20
_FROM_CPU = 1e-2  # bound for the distance: float32; with bfloat16 it is reported only


def main() -> None:
    """Print one line of JSON: distances from the CPU. Exits with an error at the first difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 4], help="D")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all that the device can run")
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)  # of one part, which is given one D
    arguments = parser.parse_args()
    device = arguments.device
    cases = arguments.cases or [name for name in CASES if device == "cuda" or name not in _OF_GPUS]
    if arguments.processes:
        print(json.dumps(compare(torch.device(device), arguments.stages[0], arguments.processes, cases)))
        return
    parts = [(stages, processes) for stages in arguments.stages for processes in sorted({1, stages})]
    how = ["--device", device, "--cases", *cases]
    words = [[*how, "--stages", str(stages), "--processes", str(processes)] for stages, processes in parts]
    found = together("benchmarks.drill.exact", words)
    named = zip(parts, found, strict=True)
    print(json.dumps({"distance_from_cpu": {f"{stages} in {processes}": own for (stages, processes), own in named}}))


def compare(device: torch.device, stages: int, processes: int, cases: list[str]) -> dict[str, float]:
    """Run the cases. Returns each one's distance from the CPU; raises SystemExit naming what differs."""
    _repeatable()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder)
        trees = {case: _tree(folder, stages, case, device) for case in cases}
        _drive(processes, trees, folder)
        for case, tree in trees.items():
            reference = reference_run(config_from(folder, tree), device)
            _check_equal(folder / case, reference, f"{stages} stages in {processes} processes, {case}")
        return {case: _distance_from_cpu(folder, trees[case], device, case) for case in cases}


def write_clips(folder: Path) -> None:
    """Nine clips of three classes, of different lengths."""
    for number in range(9):
        length = 20 + 7 * number
        write_clip(folder / "train" / f"class{number % 3}" / f"{number}.mp4", length, size=(24, 20), seed=number)


def _tree(folder: Path, stages: int, name: str, device: torch.device) -> dict[str, Any]:
    tree = settings(
        folder, stages=stages, ticks=TICKS, device=device.type, deterministic=True, tf32=False, **CASES[name]
    )
    if name in _WITH_DROPOUT:
        tree["split"] = _SPLITS[stages]
    # with Adam, which divides by it, a gradient of rounding errors would count as much as any other
    tree["optimiser"] |= {"name": "SGD", "lr": 1e-2}
    return tree


def config_from(folder: Path, tree: dict[str, Any], **changes: Any) -> Config:
    """The settings of a case, validated."""
    from common.config.run_file import parse

    return parse({**tree, **changes}, "drill")


def _drive(processes: int, trees: dict[str, dict[str, Any]], out: Path) -> None:
    """Put the product's own processes through the cases. They write losses and parameters to `out`."""
    (out / "cases.json").write_text(json.dumps(trees))
    start(processes, "tests.distributed.driver", str(out / "cases.json"), str(out))


def reference_run(config: Config, device: torch.device) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final parameters of the one-process reference, computed on `device`."""
    stages = build_stages(config, 3, config.ticks or 0, device=device)
    packet = partial(Packet, device=device, channels_last=stages[0].config.channels_last)
    reference, frame, losses = Reference(stages, config.frame_shape, packet=packet), packet(config.frame_shape), []
    for source, target in inputs_of(config):
        frame.head[:] = source.head
        frame.tensor.copy_(source.tensor)
        loss = reference.tick(frame, target and Target(target.tensor.to(device), target.clips))
        losses += [] if loss is None else [float(loss)]
    return losses, {name: value.cpu() for name, value in weights_of(stages).items()}


def _check_equal(results: Path, reference: tuple[list[float], dict[str, Tensor]], what: str) -> None:
    losses, parameters = reference
    found = json.loads(results.with_suffix(".json").read_text())
    if found != losses:
        tick = next((k for k, pair in enumerate(zip(found, losses, strict=False)) if pair[0] != pair[1]), len(found))
        raise SystemExit(f"{what}: the loss differs from the reference's from tick {tick} of the top stage on")
    trained = load_file(results.with_suffix(".safetensors"))
    different = [name for name, value in parameters.items() if not torch.equal(trained[name], value)]
    if different or trained.keys() != parameters.keys():
        raise SystemExit(f"{what}: parameters differ from the reference's: {', '.join(different)}")


def _distance_from_cpu(folder: Path, tree: dict[str, Any], device: torch.device, name: str) -> float:
    config = config_from(folder, tree, ticks=TICKS_FROM_CPU)
    here, there = (reference_run(config, where)[1] for where in (device, torch.device("cpu")))
    there = {key: value for key, value in there.items() if value.is_floating_point()}  # counters would be the largest
    largest = max(float(value.abs().max()) for value in there.values())
    distance = max(float((here[key].float() - there[key].float()).abs().max()) for key in there) / largest
    if name not in _UNBOUNDED and not distance <= _FROM_CPU:
        raise SystemExit(f"{name}: {distance:.1g} from the CPU's parameters after {TICKS_FROM_CPU} ticks")
    return distance


def _repeatable() -> None:
    """Before CUDA starts, here and in the workers: no TF32, deterministic algorithms."""
    os.environ.update(WORKER="benchmarks.drill.strict_worker")
    os.environ.update(NVIDIA_TF32_OVERRIDE="0", CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONPATH=python_path())
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)


if __name__ == "__main__":
    main()
