"""Memory of the stage workers: flat over the ticks, and stage 0's independent of the number of stages.

    python -m benchmarks.drill.memory [--device cuda] [--ticks 1000] [--stages 1 2 4]

Each stage is one equal block. After a quarter of the ticks a stage's peak must not grow any more, and stage 0's peak
with D stages must not be more than with 2.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, config_of, count, run_script, serve

ROWS, SIZE = 32, 64
_SLACK = 1.02  # the caching allocator rounds


def main() -> None:
    """Print one line of JSON: MiB of stage 0 by the number of stages. Exits with an error where memory grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--ticks", type=count, default=1000)
    parser.add_argument("--stages", type=count, nargs="+", default=[1, 2, 4], help="D")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # a process of the run, started by the launcher
    arguments = parser.parse_args()
    if arguments.out:
        serve(arguments.out, partial(_measure, ticks=arguments.ticks, device=arguments.device))
        return
    words = ["--ticks", str(arguments.ticks), "--device", arguments.device]
    found = {stages: run_script(stages, "drill.memory", *words) for stages in arguments.stages}
    _check(found, arguments.device)
    print(json.dumps({str(stages): [round(size / 2**20, 1) for size in peaks[0]] for stages, peaks in found.items()}))


def _measure(bench: Bench, ticks: int, device: str) -> list[list[int]]:
    """Each stage's peak bytes after a quarter of the ticks, and after all."""
    blocks = {"blocks": bench.count, "width": 32}
    bench.configure(config_of("convolutions", [1] * bench.count, ROWS, SIZE, device=device, model_args=blocks))
    early = _peaks(bench, max(ticks // 4, 2 * bench.count + 2))
    late = _peaks(bench, ticks - ticks // 4)
    return [list(pair) for pair in zip(early, late, strict=True)]


def _peaks(bench: Bench, ticks: int) -> list[int]:
    bench.run(ticks)
    return bench.peak_bytes()


def _check(found: dict[int, list[list[int]]], device: str) -> None:
    for stages, peaks in found.items():
        for stage, (early, late) in enumerate(peaks):
            if late > _SLACK * early and device == "cuda":  # a process's memory on the CPU is the heap's affair
                raise SystemExit(f"{stages} stages, stage {stage}: {early} bytes at first, {late} at the end")
    first = {stages: peaks[0][1] for stages, peaks in found.items() if stages > 1}
    if device == "cuda" and first and max(first.values()) > _SLACK * min(first.values()):
        raise SystemExit(f"stage 0's peak depends on the number of stages: {first}")


if __name__ == "__main__":
    main()
