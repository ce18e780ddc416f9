"""The distributed run equals the one-process reference bit for bit: every loss and every parameter after 200 ticks."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers import config_of, environment, reference_run, settings

DEPTHS = (1, 2, 3, 5)
CASES = list(product(("classify", "autoencode"), (1, 4), ("gate", "mix"), (True, False)))

Results = Callable[[int], Path]


def case_name(task: str, every: int, boundary: str, overlap: bool) -> str:
    return f"{task}-{every}-{boundary}-{'overlap' if overlap else 'serial'}"


def changes(stages: int, task: str, every: int, boundary: str, overlap: bool) -> dict[str, object]:
    model = "vgg8" if task == "classify" else "autoencoder"
    return {
        "stages": stages,
        "task": task,
        "model": model,
        "rule__every": every,
        "rule__boundary": boundary,
        "network__overlap": overlap,
    }


@pytest.fixture(scope="module")
def distributed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Runs all cases of a depth, once, with real processes. Returns the folder of results."""

    @lru_cache
    def run(stages: int) -> Path:
        out = tmp_path_factory.mktemp(f"depth{stages}")
        trees = {case_name(*case): settings(videos, **changes(stages, *case)) for case in CASES}
        (out / "cases.json").write_text(json.dumps(trees))
        arguments = ["-m", "tests.distributed.driver", str(out / "cases.json"), str(out)]
        launch = f"import sys; from coordinator.launch import launch; sys.exit(launch({stages}, {arguments!r}))"
        done = subprocess.run(
            [sys.executable, "-c", launch], env=environment(), capture_output=True, text=True, timeout=170
        )
        assert done.returncode == 0, done.stderr
        return out

    return run


@pytest.fixture(scope="module")
def reference(videos: Path) -> Callable[..., tuple[list[float], dict[str, Tensor]]]:
    @lru_cache
    def run(stages: int, task: str, every: int, boundary: str) -> tuple[list[float], dict[str, Tensor]]:
        return reference_run(config_of(videos, **changes(stages, task, every, boundary, True)))

    return run


@pytest.mark.parametrize("stages", DEPTHS)
@pytest.mark.parametrize(("task", "every", "boundary", "overlap"), CASES)
def test_distributed_run_equals_the_reference_bit_for_bit(
    distributed: Results,
    reference: Callable[..., tuple[list[float], dict[str, Tensor]]],
    stages: int,
    task: str,
    every: int,
    boundary: str,
    overlap: bool,
) -> None:
    name = case_name(task, every, boundary, overlap)
    folder = distributed(stages)
    losses, parameters = reference(stages, task, every, boundary)
    assert len(losses) == 200 - (stages - 1)
    assert json.loads((folder / f"{name}.json").read_text()) == losses
    trained = load_file(folder / f"{name}.safetensors")
    assert list(trained) == sorted(parameters) or set(trained) == set(parameters)
    different = [key for key in parameters if not torch.equal(trained[key], parameters[key])]
    assert not different


def test_the_cases_differ_from_each_other(reference: Callable[..., tuple[list[float], dict[str, Tensor]]]) -> None:
    """Else the comparison above could pass with a setting that does nothing."""
    runs = [
        reference(stages, "classify", every, boundary)[0]
        for stages, every, boundary in ((3, 1, "gate"), (3, 4, "gate"), (3, 1, "mix"), (2, 1, "gate"))
    ]
    assert all(a[-1] != b[-1] for i, a in enumerate(runs) for b in runs[:i])
