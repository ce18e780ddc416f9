"""Runs a step's parts at the same time: a machine with a GPU has more cores than one of them needs."""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_SHOWN = 40  # lines of the output of a part that failed


def together(module: str, parts: Sequence[Sequence[str]]) -> list[Any]:
    """Run `python -m module` once with each of the arguments. Returns their last lines, which are JSON.

    Raises:
        SystemExit: a part has failed; with its arguments and the end of its output.
    """
    with ThreadPoolExecutor(len(parts)) as pool:
        outputs = list(pool.map(lambda arguments: _output(module, arguments), parts))
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def _output(module: str, arguments: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit("\n".join([*done.stdout.splitlines()[-_SHOWN:], f"this was {' '.join(arguments)}"]))
    return done.stdout
