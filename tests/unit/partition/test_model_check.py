"""Checking a model before the run."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from common.errors import ConfigError
from common.models import build, part
from common.partition.model_check import check_model
from tests.support.models import user_model
from tests.support.settings import config_of


def checked(tmp_path: Path, body: str, **changes: Any) -> None:
    tree = {"model": user_model(tmp_path, body), "model_args": {}, **changes}
    config = config_of(tmp_path, **tree)
    check_model(build(config, 3), config, 3)


FLAT = "nn.Flatten(), nn.Linear(768, 8)"


def test_suitable_models_pass_the_check(tmp_path: Path) -> None:
    checked(tmp_path, f"def build(): return nn.Sequential({FLAT}, nn.ReLU(inplace=True), nn.Linear(8, 3))")
    for name, task in (("vgg8", "classify"), ("autoencoder", "autoencode")):
        checked(tmp_path, "", model=name, task=task, model_args={"width": 4})


def test_outputs_that_stand_for_no_class_are_named(tmp_path: Path) -> None:
    body = "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(768, 5))"
    config, told = config_of(tmp_path, model=user_model(tmp_path, body), model_args={}), list[str]()
    check_model(build(config, 3), config, 3, told.append)
    (text,) = told
    assert text.startswith("the model has 5 outputs for 3 classes: the others stand for no class")
    check_model(build(config, 5), config, 5, told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            "nn.Conv3d(4, 4, 1)",
            r"block 0 fails on .* one frame of each slot, .* so Conv3d cannot be used: take 2D layers",
        ),
        ("nn.Conv3d(3, 4, 1)", r"must keep the first dimension \(slots\)\. A block is given one frame .* Conv3d"),
        (f"{FLAT}, nn.Linear(9, 3)", r"block 2 fails on an input \[3, 8\]: RuntimeError"),
        (f"{FLAT}, nn.Linear(8, 2)", r"needs logits \[3, 3 classes\], but the model's output is \[3, 2\]"),
        ("nn.Conv2d(3, 3, 1)", r"needs logits .* is \[3, 3, 16, 16\]"),
        ("nn.Flatten(), nn.Flatten(0, 1), nn.Linear(1, 3)", r"block 1 turns \[3, 768\] into \[2304\]"),
        ("nn.Flatten(), Detach(), nn.Linear(768, 3)", "block Detach|block 1 passes no gradient"),
        ("nn.Flatten(), Pair()", "block 1 returns tuple: between blocks there must be one floating-point tensor"),
        ("nn.Flatten(), Scribble(), nn.Linear(768, 3)", "block 1 fails .*in-place"),
        (
            "nn.Flatten(), *(lambda a: (a, nn.ReLU(), a, nn.Linear(768, 3)))(nn.Linear(768, 768))",
            "blocks 1 and 3 share",
        ),
    ],
)
def test_the_error_names_the_unsuitable_block(tmp_path: Path, blocks: str, message: str) -> None:
    modules = (
        "class Detach(nn.Module):\n    def forward(self, x): return x.detach()\n"
        "class Pair(nn.Module):\n    def forward(self, x): return x, x\n"
        "class Scribble(nn.Module):\n    def forward(self, x): return x.add_(1)\n"
    )
    with pytest.raises(ConfigError, match=message):
        checked(tmp_path, f"{modules}def build(): return nn.Sequential({blocks})")


def test_blocks_with_a_memory_cannot_be_compiled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="blocks with a memory cannot be compiled"):
        checked(tmp_path, "", model="vgg8", model_args={"width": 4, "temporal": "motion"}, compile=True)


def test_an_autoencoder_must_output_the_frames_shape(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the output is \[3, 3, 24, 24\] and the frame \[3, 3, 20, 20\]"):
        checked(tmp_path, "", model="autoencoder", task="autoencode", model_args={"width": 4}, data__size=20)


def test_a_model_may_use_one_module_several_times(tmp_path: Path) -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    assert [len(part(model, [2, 2], stage)) for stage in range(2)] == [2, 2]


@pytest.mark.parametrize("changes", [{"rule__auxiliary": 0.3}, {"skips": [[0, 2]], "stages": 3}])
def test_what_is_pooled_has_its_channels_first(tmp_path: Path, changes: dict[str, Any]) -> None:
    body = (
        "class Last(nn.Flatten):\n    output_fmt = 'NHWC'\n"
        "def build(): return nn.Sequential(Last(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 3))"
    )
    checked(tmp_path, body)
    with pytest.raises(ConfigError, match=r"leave skips and rule\.auxiliary out"):
        checked(tmp_path, body, **changes)


def test_a_pass_has_the_rows_of_a_replica_or_of_a_micro_batch(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"model": "resnet18", "model_args": {}, "data__size": 32, "data__slots": 4}
    whole = config_of(tmp_path, **changes)
    check_model(build(whole, 3), whole.of_pass, 3)
    for each in ({"replicas": 4}, {"algorithm": "gpipe", "stages": 2, "micro_batches": 4}):
        config = config_of(tmp_path, **changes, **each)
        with pytest.raises(ConfigError, match="Expected more than 1 value per channel"):
            check_model(build(config, 3), config.of_pass, 3)
