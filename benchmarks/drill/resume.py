"""A run that evaluates and is resumed, with what is in flight, equals one that was not interrupted.

    python -m benchmarks.drill.resume [--device cuda]

Losses, evaluations and parameters are compared, bit for bit. The run's maps are in the order that a GPU prefers.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.bench import python_path
from benchmarks.drill.exact import write_clips
from tests.support.oracles import losses_of, same_model
from tests.support.processes import sideways
from tests.support.settings import slow_run, write_run_file

_TICKS, _HALF, _EVALUATED = 120, 60, 40
_LIMIT = 60.0  # seconds of each command


def main() -> None:
    """Print one line of JSON: the evaluations. Exits with an error where the two runs differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    arguments = parser.parse_args()
    os.environ.update(CUBLAS_WORKSPACE_CONFIG=":4096:8", PYTHONPATH=python_path())
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder)
        (folder / "train").rename(folder / "videos")
        with ThreadPoolExecutor() as pool:
            both = [("straight", _TICKS), ("halves", _HALF)]
            straight, halves = pool.map(lambda run: _train(folder, run[0], arguments.device, run[1]), both)
        _command(halves.parent.parent, "--resume", "runs/it", "--set", f"ticks={_TICKS}")
        evaluations = [_evaluations(run) for run in (straight, halves)]
        if losses_of(straight) != losses_of(halves) or not same_model(straight, halves):
            raise SystemExit("the resumed run's losses or parameters differ from the uninterrupted run's")
        # the first half is evaluated where it ends, too
        if any(line not in evaluations[1] for line in evaluations[0]):
            raise SystemExit(f"evaluations differ: {evaluations[0]} without interruption, {evaluations[1]} with")
    print(json.dumps({"evaluations": evaluations[0]}))


def _train(folder: Path, name: str, device: str, ticks: int) -> Path:
    (folder / name).mkdir()
    tree = slow_run(folder, ticks=ticks, device=device, deterministic=True, evaluate_every=_EVALUATED)
    tree["data"] |= {"train": str(folder / "videos"), "val": str(folder / "videos")}
    tree |= {"model_args": {"width": 12, "norm": "batch"}, "memory_format": "channels_last"}
    write_run_file(folder / name / "run.toml", tree)
    _command(folder / name, "run.toml")
    return folder / name / "runs" / "it"


def _command(folder: Path, *arguments: str) -> None:
    done = sideways("train", *arguments, cwd=folder, timeout=_LIMIT)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\nexit status {done.returncode}")


def _evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "evaluation"]
    return [{key: value for key, value in line.items() if key in ("tick", "val_top1", "val_top5")} for line in found]


if __name__ == "__main__":
    main()
