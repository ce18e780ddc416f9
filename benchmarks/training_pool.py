"""Runs the trainings of a benchmark in parallel, and keeps what is finished in FOLDER/runs.jsonl."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path

from benchmarks.training import Job, Record, train


def finished(folder: Path) -> dict[str, Record]:
    """The records of the trainings that are done, by their jobs' keys. Creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runs.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return {record["key"]: record for record in map(json.loads, lines)}


def train_all(jobs: Sequence[Job], done: dict[str, Record], workers: int, folder: Path) -> None:
    """Run the jobs, each in a fresh process, so that none inherits another's threads or memory; add them to `done`.

    The first error ends it, once the trainings under way are done.
    """
    with ProcessPoolExecutor(workers, get_context("spawn"), _watch_parent, max_tasks_per_child=1) as pool:
        try:
            for number, future in enumerate(as_completed([pool.submit(train, job) for job in jobs]), start=1):
                _keep(future.result(), done, folder, f"{number} of {len(jobs)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _keep(record: Record, done: dict[str, Record], folder: Path, which: str) -> None:
    done[record["key"]] = record
    with (folder / "runs.jsonl").open("a") as lines:
        lines.write(json.dumps(record) + "\n")
    result = f"{record['row']}, {record['contender']}, seed {record['seed']}: {record['score']:.3f}"
    print(f"--- {which}: {result} in {record['seconds']:.0f} s", file=sys.stderr, flush=True)


def _watch_parent() -> None:
    """Exit as soon as the parent process does, for whatever reason."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
