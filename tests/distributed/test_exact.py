"""The distributed run equals the one-process reference bit for bit: every loss and every parameter after 200 ticks."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.labels import FRAMES, NUMBERS, SEVERAL
from tests.support.oracles import backpropagation_run, reference_run, replicated_run
from tests.support.processes import environment
from tests.support.settings import config_of, settings

DEPTHS = (1, 2, 3, 5)
CASES = list(product(("classify", "autoencode"), (1, 4), ("gate", "mix")))

MODELS = f"{Path(__file__).parents[1]}/support/models.py"

# each training option by itself, and several together, at D = 3
DROPOUT: dict[str, object] = {
    "model": f"{MODELS}:with_dropout",
    "model_args": {},
    "split": [2, 1, 2],
}
JITTER: dict[str, object] = {"data__jitter": "stages", "data__hue": 0.2, "data__contrast": 0.4}
OPTIONS: dict[str, dict[str, object]] = {
    "dropout": DROPOUT,
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16-autoencode": {"precision": "bfloat16", "task": "autoencode", "model": "autoencoder"},
    "clip": {"optimiser__clip": 0.05},
    "cosine": {"optimiser__schedule": "cosine", "optimiser__warmup": 20, "optimiser__final": 0.1},
    "one-cycle": {"optimiser__schedule": "one-cycle", "rule__every": 3},
    "step": {"optimiser__schedule": "step", "optimiser__steps": [0.2, 0.6]},
    "average": {"optimiser__ema": 0.98, "rule__every": 2},
    "orthogonal": {"optimiser__orthogonal": 0.9, "optimiser__clip": 0.2, "rule__every": 2},
    "smoothing": {"label_smoothing": 0.1, "class_weights": [0.5, 2.0, 1.0]},
    "frozen": {"freeze": ["conv1", "conv4.*", "head.*.bias"], "rule__auxiliary": 0.1},
    "frozen-norms": {
        "model_args": {"width": 4, "norm": "batch"},
        "norm": "frozen",
        "optimiser__rates": {"conv1": 0.1, "conv[34].*": 0.3, "*.bias": 2.0},
        "optimiser__schedule": "cosine",
        "optimiser__args": {"weight_decay": 0.1},
    },
    "jitter": JITTER,
    "equal-rates": {"optimiser__lr_by_mismatch": False},
    "momentum": {"optimiser__name": "SGD", "optimiser__args": {"momentum": 0.5, "weight_decay": 0.01}},
    "everything-decays": {"optimiser__decay_all": True, "optimiser__args": {"weight_decay": 0.2}},
    "predict": {"task": "predict", "model": "autoencoder", "ahead": 3},
    "motion": {"model_args": {"width": 4, "temporal": "motion"}},
    "shift": {"model_args": {"width": 4, "temporal": "shift"}, "rule__boundary": "mix"},
    "shift-layers": {  # a stage begins with a memory, and one ends with one
        "cuts": "layers",
        "split": [3, 5, 22],
        "model_args": {"width": 4, "temporal": "shift"},
    },
    "movinet": {"model": "movinet_a0", "model_args": {}, "split": [6, 6, 5]},
    "causal": {"model_args": {"width": 4, "temporal": "conv"}, "optimiser__ema": 0.9},
    "auxiliary": {"rule__auxiliary": 0.3, "rule__every": 2, "optimiser__ema": 0.9, "optimiser__clip": 0.5},
    "skip": {"skips": [[0, 2]], "optimiser__ema": 0.9, "rule__auxiliary": 0.2},
    "skip-autoencode": {"skips": [[0, 2]], "task": "autoencode", "model": "autoencoder", "precision": "bfloat16"},
    "skip-gloo": {"skips": [[0, 2]], "network__transport": "gloo", "rule__every": 2, "rule__boundary": "mix"},
    "edges": {"network__edge_ticks": [1, 3]},
    "edges-gloo": {
        "network__edge_ticks": [3, 2],
        "network__transport": "gloo",
        "task": "predict",
        "model": "autoencoder",
        "rule__every": 2,
    },
    "edges-skip": {
        "network__edge_ticks": [2, 3],
        "skips": [[0, 2]],
        "model_args": {"width": 4, "temporal": "shift"},
        "rule__auxiliary": 0.3,
    },
    "wire-bfloat16": {
        "network__wire": "bfloat16",
        "data__mean": "imagenet",
        "data__std": [0.2, 0.3, 0.1],
        "task": "autoencode",
        "model": "autoencoder",
        "skips": [[0, 2]],
    },
    "16-bit": {"data__bits": 16, "data__channels": 1, "task": "autoencode", "model": "autoencoder"},
    "wire-int8": {"network__wire": "int8", "network__edge_ticks": [1, 2], "skips": [[0, 2]], "rule__every": 2},
    "wire-int8-gloo": {
        "network__wire": "int8",
        "network__transport": "gloo",
        "precision": "bfloat16",
        "rule__boundary": "mix",
    },
    "layers": {"cuts": "layers", "split": [4, 3, 17]},
    "module": {"model": f"{MODELS}:whole", "model_args": {}, "split": [1, 4, 1]},
    "timm": {"model": "timm:test_resnet", "model_args": {}, "split": [3, 2, 3]},
    "channels-last": {
        "memory_format": "channels_last",
        "model_args": {"width": 4, "temporal": "motion", "norm": "batch"},
        "skips": [[0, 2]],
        "rule__auxiliary": 0.2,
        "optimiser__ema": 0.9,
        "optimiser__orthogonal": 0.5,
    },
    "channels-last-autoencode": {
        "memory_format": "channels_last",
        "task": "predict",
        "model": "autoencoder",
        "network__transport": "gloo",
        "network__wire": "int8",
        "network__edge_ticks": [1, 2],
        "precision": "bfloat16",
    },
    "multilabel": {"task": "multilabel", "data__train_labels": SEVERAL, "rule__auxiliary": 0.3, "rule__every": 2},
    "regress": {
        "task": "regress",
        "data__train_labels": NUMBERS,
        "network__transport": "gloo",
        "network__wire": "int8",
        "skips": [[0, 2]],
        "precision": "bfloat16",
    },
    "frame-labels": {
        "data__labels_of": "frames",
        "data__train_labels": FRAMES,
        "data__window": 12,
        "data__stride": 2,
        "rule__auxiliary": 0.3,
        "class_weights": [0.5, 2.0, 1.0],
    },
    "gloo": {"network__transport": "gloo"},  # the default between neighbours on one host is shared memory
    "gloo-autoencode": {"network__transport": "gloo", "task": "autoencode", "model": "autoencoder"},
    "all": {
        **DROPOUT,
        "precision": "bfloat16",
        "optimiser__clip": 0.1,
        "optimiser__ema": 0.9,
        "optimiser__schedule": "cosine",
        "label_smoothing": 0.2,
        "rule__every": 2,
    },
}
GRAPH: dict[str, object] = {
    **DROPOUT,
    "graph": True,
    "optimiser__schedule": "cosine",
    "optimiser__clip": 0.1,
    "optimiser__ema": 0.9,
}
# the others run in `make test-long`
QUICK = (
    "dropout",
    "frozen-norms",
    "bfloat16-autoencode",
    "average",
    "predict",
    "motion",
    "auxiliary",
    "skip",
    "edges-gloo",
    "wire-bfloat16",
    "wire-int8",
    "layers",
    "module",
    "channels-last",
    "multilabel",
    "frame-labels",
    "all",
)
EXACT: dict[str, dict[str, object]] = {
    f"{algorithm}-{name}": {"algorithm": algorithm, "data__slots": 6, "micro_batches": parts, **changes}
    for algorithm, parts in (("backprop", None), ("gpipe", 2), ("1f1b", 3))
    for name, changes in (
        ("classify", {"rule__every": 2}),
        ("dropout", DROPOUT),
        ("memory", {"model_args": {"width": 4, "temporal": "shift"}}),
        ("autoencode", {"task": "autoencode", "model": "autoencoder"}),
        ("predict", {"task": "predict", "model": "autoencoder", "ahead": 2, "precision": "bfloat16"}),
    )
}
EXACT["gpipe-regress"] = {**EXACT["gpipe-classify"], "task": "regress", "data__train_labels": NUMBERS}
EXACT["gpipe-not-contiguous"] = {
    **EXACT["gpipe-classify"],
    "model": f"{MODELS}:not_contiguous",
    "model_args": {},
    "split": [1, 2, 1],
}
EXACT["1f1b-frame-labels"] = {**EXACT["1f1b-classify"], "data__labels_of": "frames", "data__train_labels": FRAMES}

Results = Callable[..., Path]


def case_name(task: str, every: int, boundary: str) -> str:
    return f"{task}-{every}-{boundary}"


def changes(stages: int, task: str, every: int, boundary: str) -> dict[str, object]:
    model = "vgg8" if task == "classify" else "autoencoder"
    return {
        "stages": stages,
        "task": task,
        "model": model,
        "rule__every": every,
        "rule__boundary": boundary,
    }


@pytest.fixture(scope="module")
def distributed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A function that runs a kind of cases at a depth once. Returns the folder of results."""

    @lru_cache
    def run(stages: int, kind: str = "cases") -> Path:
        out = tmp_path_factory.mktemp(f"depth{stages}{kind}")
        kinds: dict[str, dict[str, dict[str, object]]] = {
            "cases": {case_name(*case): changes(stages, *case) for case in CASES},
            "quick": {name: OPTIONS[name] for name in QUICK},
            "more": {name: options for name, options in OPTIONS.items() if name not in QUICK},
            "exact": EXACT,
        }
        drive(stages, {name: settings(videos, **{**case, "stages": stages}) for name, case in kinds[kind].items()}, out)
        return out

    return run


def drive(processes: int, trees: dict[str, dict[str, Any]], out: Path, **more: str) -> None:
    """Run the cases with one set of so many workers. `more` are additional environment variables."""
    (out / "cases.json").write_text(json.dumps(trees))
    readers = int(more.get("READERS", 0))
    code = (
        "from tests.distributed.driver import main; from common.processes.layout import Layout; "
        "from coordinator.launch.launcher import Supervision, launch; "
        f"exit(launch(main, Layout({processes}, readers={readers}), Supervision()))"
    )
    command = [sys.executable, "-c", code, str(out / "cases.json"), str(out)]
    variables = {**environment(), **more}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def reference(videos: Path) -> Callable[..., tuple[list[float], dict[str, Tensor]]]:
    @lru_cache
    def run(stages: int, task: str, every: int, boundary: str) -> tuple[list[float], dict[str, Tensor]]:
        return reference_run(config_of(videos, **changes(stages, task, every, boundary)))

    return run


@pytest.mark.parametrize("stages", [pytest.param(n, marks=[] if n == 3 else pytest.mark.long) for n in DEPTHS])
@pytest.mark.parametrize(("task", "every", "boundary"), CASES)
def test_distributed_run_equals_the_reference_bit_for_bit(
    distributed: Results,
    reference: Callable[..., tuple[list[float], dict[str, Tensor]]],
    stages: int,
    task: str,
    every: int,
    boundary: str,
) -> None:
    name = case_name(task, every, boundary)
    folder = distributed(stages)
    losses, parameters = reference(stages, task, every, boundary)
    assert len(losses) == 200 - (stages - 1)
    assert json.loads((folder / f"{name}.json").read_text()) == losses
    trained = load_file(folder / f"{name}.safetensors")
    assert list(trained) == sorted(parameters) or set(trained) == set(parameters)
    different = [key for key in parameters if not torch.equal(trained[key], parameters[key])]
    assert not different


def same(folder: Path, name: str, losses: list[float], parameters: dict[str, Tensor]) -> None:
    assert json.loads((folder / f"{name}.json").read_text()) == losses
    trained = load_file(folder / f"{name}.safetensors")
    assert set(trained) == set(parameters)
    different = [key for key in parameters if not torch.equal(trained[key], parameters[key])]
    assert not different


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.long) for n in OPTIONS])
def test_every_training_option_equals_the_reference_bit_for_bit(distributed: Results, videos: Path, name: str) -> None:
    losses, parameters = reference_run(config_of(videos, stages=3, **OPTIONS[name]))
    same(distributed(3, "quick" if name in QUICK else "more"), name, losses, parameters)


@pytest.mark.long
@pytest.mark.parametrize(("stages", "skips"), [(4, [[0, 2], [1, 3], [0, 3]]), (5, [[0, 2], [2, 4], [1, 4], [0, 4]])])
def test_several_skips_equal_the_reference_bit_for_bit(
    videos: Path, tmp_path: Path, stages: int, skips: list[list[int]]
) -> None:
    remembering = {"model_args": {"width": 4, "temporal": "shift"}}
    cases: dict[str, dict[str, object]] = {
        "classify": {**changes(stages, "classify", 1, "gate"), "skips": skips},
        "every": {**changes(stages, "classify", 3, "mix"), **remembering, "skips": skips},
        "autoencode": {**changes(stages, "autoencode", 1, "gate"), "skips": skips},
    }
    drive(stages, {name: settings(videos, **case) for name, case in cases.items()}, tmp_path)
    for name, case in cases.items():
        same(tmp_path, name, *reference_run(config_of(videos, **case)))


SHARED: dict[str, dict[str, object]] = {
    name: OPTIONS[name] for name in ("dropout", "predict", "auxiliary", "edges-gloo", "wire-int8", "average", "layers")
}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_stages_that_share_a_process_equal_the_reference_bit_for_bit(
    videos: Path, tmp_path: Path, processes: int
) -> None:
    cases = {name: {"stages": 3, "ticks": 60, **case} for name, case in SHARED.items()}
    cases |= {
        f"skip-{on}": {**cases["dropout"], "skips": [[0, 2]], "network__transport": on} for on in ("auto", "gloo")
    }
    drive(processes, {name: settings(videos, **case) for name, case in cases.items()}, tmp_path)
    for name, case in cases.items():
        same(tmp_path, name, *reference_run(config_of(videos, **case)))


@pytest.mark.long
@pytest.mark.parametrize("transport", ["auto", "gloo"])
def test_skips_between_processes_of_several_stages_equal_the_reference(
    videos: Path, tmp_path: Path, transport: str
) -> None:
    case = {"stages": 5, "ticks": 60, "skips": [[0, 2], [0, 4], [1, 3], [2, 4]], "network__transport": transport}
    drive(2, {"skips": settings(videos, **case)}, tmp_path)
    same(tmp_path, "skips", *reference_run(config_of(videos, **case)))


@pytest.mark.long
def test_replicas_with_several_stages_in_a_process_equal_the_reference(videos: Path, tmp_path: Path) -> None:
    case = {"stages": 3, "replicas": 2, "data__slots": 4, "ticks": 60, "optimiser__clip": 0.1}
    drive(4, {"replicas": settings(videos, **case)}, tmp_path)
    losses, parameters = replicated_run(config_of(videos, **case))
    assert json.loads((tmp_path / "replicas.json").read_text()) == losses
    trained = load_file(tmp_path / "replicas.safetensors")
    assert not [key for key in parameters if not torch.equal(trained[key], parameters[key])]


REPLICATED: dict[str, dict[str, object]] = {
    "classify": {"rule__auxiliary": 0.3, "optimiser__clip": 0.1},
    "every": {"rule__every": 3, "optimiser__ema": 0.9},
    "predict": {"task": "predict", "model": "autoencoder", "ahead": 2, "network__transport": "gloo"},
    "dropout": DROPOUT,
    "memory": {"model_args": {"width": 4, "temporal": "shift"}, "rule__boundary": "mix"},
    "bfloat16": {"precision": "bfloat16", "optimiser__orthogonal": 0.9},
    "edges": {"network__edge_ticks": 2, "network__wire": "int8"},
    "frozen-norms": {"model_args": {"width": 4, "norm": "batch"}, "norm": "frozen", "optimiser__rates": {"conv1": 0.1}},
    "synced-norms": {"model_args": {"width": 4, "norm": "batch"}, "norm": "sync", "rule__every": 2},
    "multilabel": {"task": "multilabel", "data__train_labels": SEVERAL, "rule__auxiliary": 0.2},
}


@pytest.mark.parametrize(
    ("stages", "replicas"),
    [(1, 2), *(pytest.param(*each, marks=pytest.mark.long) for each in ((2, 2), (3, 2), (1, 4)))],
)
def test_replicas_equal_the_reference_bit_for_bit(videos: Path, tmp_path: Path, stages: int, replicas: int) -> None:
    common = {"stages": stages, "replicas": replicas, "data__slots": 2 * replicas, "ticks": 60}
    cases = {name: {**case, **common} for name, case in REPLICATED.items()}
    cases["dropout"]["split"] = {1: [5], 2: [3, 2], 3: [2, 1, 2]}[stages]
    if stages == 3:  # fewer have no skips
        cases["skip"] = {"skips": [[0, 2]], **common}
    trees = {name: settings(videos, **case) for name, case in cases.items()}
    drive(stages * replicas, trees, tmp_path)
    for name, case in cases.items():
        losses, parameters = replicated_run(config_of(videos, **case))
        assert json.loads((tmp_path / f"{name}.json").read_text()) == losses, name
        trained = load_file(tmp_path / f"{name}.safetensors")
        assert set(trained) == set(parameters)
        assert not [key for key in parameters if not torch.equal(trained[key], parameters[key])], name


@pytest.mark.parametrize("readers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_with_readers_it_equals_the_reference_too(videos: Path, tmp_path: Path, readers: int) -> None:
    common = {"stages": 1, "replicas": 2, "data__slots": 6, "ticks": 60, "data__readers": readers}
    own = {"predict": REPLICATED["predict"], "multilabel": REPLICATED["multilabel"], "jitter": JITTER}
    cases = {name: {**case, **common} for name, case in own.items()}
    trees = {name: settings(videos, **case) for name, case in cases.items()}
    drive(2, trees, tmp_path, READERS=str(readers))
    for name, case in cases.items():
        losses, parameters = replicated_run(config_of(videos, **case))
        assert json.loads((tmp_path / f"{name}.json").read_text()) == losses, name
        trained = load_file(tmp_path / f"{name}.safetensors")
        assert not [key for key in parameters if not torch.equal(trained[key], parameters[key])], name


@pytest.mark.parametrize(
    "edges", [pytest.param("staged", marks=pytest.mark.long), pytest.param("apart", marks=pytest.mark.long), "device"]
)
def test_with_the_edges_of_gpus_it_equals_the_reference_too(videos: Path, tmp_path: Path, edges: str) -> None:
    """But for what only a GPU has: the same code, with another device, other groups and memory of the host."""
    transport = {"network__transport": "gloo"} if edges == "staged" else {}
    names = ["dropout", "predict", "average", "skip", "edges-skip", "wire-bfloat16", "wire-int8"]
    names += ["channels-last", "channels-last-autoencode"]
    options = {**{name: OPTIONS[name] for name in names}, "graph": GRAPH}
    cases = {name: {"stages": 3, "ticks": 60, **own, **transport} for name, own in options.items()}
    trees = {name: settings(videos, **own) for name, own in cases.items()}
    drive(3, trees, tmp_path, WORKER="tests.distributed.gpu_like_worker", EDGES=edges)
    for name, own in cases.items():
        same(tmp_path, name, *reference_run(config_of(videos, **own)))


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_with_streams_and_events_it_equals_the_reference_too(videos: Path, tmp_path: Path, processes: int) -> None:
    """Stages that share a process, as on a GPU; the CPU's streams and events do nothing."""
    cases = {name: {"stages": 3, "ticks": 40, **OPTIONS[name]} for name in ("dropout", "edges-skip", "wire-int8")}
    trees = {name: settings(videos, **options) for name, options in cases.items()}
    drive(processes, trees, tmp_path, WORKER="tests.distributed.gpu_like_worker", EDGES="device")
    for name, options in cases.items():
        same(tmp_path, name, *reference_run(config_of(videos, **options)))


@pytest.mark.long
@pytest.mark.parametrize("name", EXACT)
def test_pipelined_backpropagation_equals_plain_backpropagation(distributed: Results, videos: Path, name: str) -> None:
    losses, parameters = backpropagation_run(config_of(videos, stages=3, **EXACT[name]))
    assert len(losses) == 200
    same(distributed(3, "exact"), name, losses, parameters)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_workers_that_share_a_gpu_follow_the_reference_and_repeat_bit_for_bit(videos: Path, tmp_path: Path) -> None:
    """The reference is only matched up to the rounding of the GPU's kernels, which accumulates over the ticks."""
    changes = {"stages": 3, "ticks": 60, "optimiser__name": "SGD", "optimiser__lr": 1e-2}
    tree = settings(videos, device="cuda", deterministic=True, **changes)
    drive(3, {"first": tree, "second": tree}, tmp_path, NVIDIA_TF32_OVERRIDE="0")
    losses, parameters = reference_run(config_of(videos, **changes))
    assert json.loads((tmp_path / "first.json").read_text()) == pytest.approx(losses, rel=1e-3)
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert set(first) == set(parameters)
    for key, value in parameters.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_every_option_changes_something(videos: Path) -> None:
    """Else an option could be ignored by both sides, and the comparisons above would pass."""
    ticks = {"ticks": 150}
    plain = {
        task: reference_run(config_of(videos, stages=3, task=task, model=model, **ticks))
        for task, model in (("classify", "vgg8"), ("autoencode", "autoencoder"))
    }
    for name, options in OPTIONS.items():
        if name in ("dropout", "module", "timm", "all"):
            continue  # they have another model: see below
        if name.startswith("gloo"):
            continue  # only another transport
        if name == "predict":
            options = {**options, "task": "predict"}
        task = "classify" if "task" not in options else "autoencode"
        losses, parameters = reference_run(config_of(videos, stages=3, **{**ticks, **options}))
        before, weights = plain[task]
        assert losses != before or any(not torch.equal(parameters[key], weights[key]) for key in weights), name
    dropped = [reference_run(config_of(videos, stages=3, **ticks, **DROPOUT, seed=seed))[0] for seed in (1, 1, 2)]
    assert dropped[0] == dropped[1] != dropped[2]


def test_the_cases_differ_from_each_other(reference: Callable[..., tuple[list[float], dict[str, Tensor]]]) -> None:
    """Else the comparisons above could pass with a setting that has no effect."""
    runs = [
        reference(stages, "classify", every, boundary)[0]
        for stages, every, boundary in ((3, 1, "gate"), (3, 4, "gate"), (3, 1, "mix"), (2, 1, "gate"))
    ]
    assert all(a[-1] != b[-1] for i, a in enumerate(runs) for b in runs[:i])
