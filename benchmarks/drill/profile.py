"""What the product's tick asks of the GPU: launches, copies and waits of the host, and how busy the GPU is.

    python -m benchmarks.drill.profile [--device cuda] [--case resnet18_112_b8] [--stages 2] [--ticks 50]

The stage workers run a model whose first block in each stage starts torch's profiler in its own process, some ticks
after the pipeline is full, and stops it some ticks later.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a stage worker loads this file as a user's model

from benchmarks.bench import Bench, config_of, count, run_script, serve
from benchmarks.contenders import Case
from benchmarks.models import _of_zoo

_SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
_WARM = 20  # ticks before the profiler starts


def main() -> None:
    """Print one line of JSON: figures of each stage, per tick."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--case", default="resnet18_112_b8", metavar="MODEL_SIZE_bB")
    parser.add_argument("--stages", type=count, default=2, help="D")
    parser.add_argument("--ticks", type=count, default=50, help="ticks to profile")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        serve(arguments.out, partial(_measure, arguments=arguments))
        return
    words = [f"--{name}={getattr(arguments, name)}" for name in ("device", "case", "stages", "ticks")]
    print(json.dumps(run_script(arguments.stages, "drill.profile", *words)))


def _measure(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    case = Case.of(arguments.case)
    assert case is not None, "--case should be MODEL_SIZE_bB"
    one_each = config_of(case.model, [1] * bench.count, case.slots, case.size, device=arguments.device)
    split = bench.choose(one_each)
    with tempfile.TemporaryDirectory() as folder:
        model_args = {"model": case.model, "split": split, "out": folder, "ticks": arguments.ticks}
        options = {"device": arguments.device, "model_args": model_args}
        bench.configure(config_of(f"{__file__}:profiled", split, case.slots, case.size, **options))
        bench.run(_WARM + arguments.ticks + 2 * bench.count)
        stages = [json.loads((Path(folder) / f"{stage}.json").read_text()) for stage in range(bench.count)]
    return {"split": split, "stages": stages}


class _Profiled(nn.Module):
    """A block that profiles its process from one of its forward passes to another."""

    def __init__(self, block: nn.Module, out: Path, ticks: int) -> None:
        super().__init__()
        self.block, self._out, self._ticks = block, out, ticks
        self._forwards = 0
        self._profile: profile | None = None
        self._start = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        if self.training and torch.is_grad_enabled():
            self._count(x)
        y: Tensor = self.block(x)
        return y

    def _count(self, x: Tensor) -> None:
        if self._forwards == _WARM:
            self._start, self._profile = time.perf_counter(), profile(activities=_activities(x))
            self._profile.start()
        elif self._forwards == _WARM + self._ticks and self._profile is not None:
            self._profile.stop()
            seconds = time.perf_counter() - self._start
            self._out.write_text(json.dumps(figures(self._profile, seconds, self._ticks)))
        self._forwards += 1


def _activities(x: Tensor) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, ProfilerActivity.CUDA] if x.is_cuda else [ProfilerActivity.CPU]


def figures(found: profile, seconds: float, ticks: int) -> dict[str, float]:
    """Per tick: milliseconds, kernel launches, copies, waits of the host; and the GPU's busy share of the time."""
    events = found.key_averages()

    def calls(wanted: Callable[[str], bool]) -> float:
        return sum(event.count for event in events if wanted(event.key)) / ticks

    # an operator on the CPU has its kernels' time too
    kernels = [event for event in events if str(event.device_type) == "DeviceType.CUDA"]
    busy = sum(event.self_device_time_total for event in kernels if not event.is_user_annotation) * 1e-6
    return {
        "tick_ms": round(1e3 * seconds / ticks, 3),
        "launches": calls(lambda key: key.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"))),
        "copies": calls(lambda key: key.startswith("cudaMemcpy")),
        "syncs": calls(lambda key: key in _SYNCS),
        "operators": calls(lambda key: key.startswith("aten::")),
        "busy": round(busy / seconds, 3),
    }


def profiled(
    model: str, split: list[int], out: str, ticks: int, classes: int, channels: int, size: int
) -> nn.Sequential:
    """A model of the zoo, of which each stage's first block profiles; stage i writes OUT/i.json."""
    blocks = list(_of_zoo(model, classes, channels, size))
    for stage in range(len(split)):
        first = sum(split[:stage])
        blocks[first] = _Profiled(blocks[first], Path(out) / f"{stage}.json", ticks)
    return nn.Sequential(*blocks)


if __name__ == "__main__":
    main()
