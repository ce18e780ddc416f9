"""Each of a user's files imports the modules beside it, also if another file has imported others of their names."""

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from common.config.run_file import parse
from common.models import build, user_code
from coordinator.video.files.own_dataset import opened

MINE = """
    import numpy
    from {helper} import NAME, Kind

    def later():
        import {helper} as helper
        return helper.NAME
"""
HELPERS = ("utils", "layers", "sizes", "nets")
KIND = "NAME = {!r}\nclass Kind: pass\n"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """A test's helper modules are not found by other tests."""
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in HELPERS:
            del sys.modules[name]


def project(folder: Path, helper: str = "utils", file: str = "utils.py", name: str = "") -> Path:
    """A folder with a helper module, and the file `mine.py` that imports it. Returns that."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(KIND.format(name or folder.name))
    (folder / "mine.py").write_text(dedent(MINE.format(helper=helper)))
    return folder / "mine.py"


@pytest.mark.parametrize(
    ("helper", "file"),
    [
        ("utils", "utils.py"),
        ("utils", "utils/__init__.py"),
        ("layers.utils", "layers/utils.py"),
    ],
    ids=["module", "package", "folder without __init__.py"],
)
def test_files_of_two_folders_get_their_own_helpers(tmp_path: Path, helper: str, file: str) -> None:
    mines = [user_code.load(project(tmp_path / name, helper, file)) for name in ("a", "b")]
    for _ in range(2):
        assert [mine.NAME for mine in mines] == ["a", "b"]
        assert [mine.later() for mine in mines] == ["a", "b"]
    assert mines[0].numpy is mines[1].numpy is np


def test_packages_of_one_name_get_their_own_modules(tmp_path: Path) -> None:
    for name in ("a", "b"):
        file = project(tmp_path / name / "nets", "nets.utils")
        (file.parent / "__init__.py").write_text(f"WHERE = {name!r}")
        file.write_text(f"{file.read_text()}from . import WHERE, utils\n")
        (file.parent / "utils.py").write_text(KIND.format(name))
        mine = user_code.load(file)
        assert (mine.NAME, mine.WHERE, mine.utils.NAME, mine.later()) == (name, name, name, name)


def test_a_file_does_not_get_the_helper_of_another(tmp_path: Path) -> None:
    user_code.load(project(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.py").write_text("import utils")
    with pytest.raises(ModuleNotFoundError, match="utils"):
        user_code.load(tmp_path / "b/mine.py")


def test_files_of_one_folder_share_their_helpers_which_pickle(tmp_path: Path) -> None:
    mine = user_code.load(project(tmp_path / "a"))
    (tmp_path / "a/losses.py").write_text("from utils import Kind")
    assert user_code.load(tmp_path / "a/losses.py").Kind is mine.Kind
    assert pickle.loads(pickle.dumps(mine.Kind)) is mine.Kind


@pytest.mark.parametrize("first", [True, False])
def test_a_users_process_keeps_its_own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    """Imported before or after the file of another folder."""
    (tmp_path / "utils.py").write_text("NAME = 'notebook'")
    monkeypatch.syspath_prepend(tmp_path)
    before = importlib.import_module("utils") if first else None
    mine = user_code.load(project(tmp_path / "a"))
    utils = importlib.import_module("utils")
    assert (utils.NAME, mine.NAME, mine.later()) == ("notebook", "a", "a")
    assert before in (None, utils)


def test_in_a_process_of_a_run_a_helper_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.compile does, although the working directory, which is on the path there, has another."""
    (tmp_path / "utils.py").write_text("NAME = 'other'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "stage_worker")
    mine = user_code.load(project(tmp_path / "a"))
    assert importlib.import_module("utils").Kind is mine.Kind


def test_files_of_one_name_are_modules_of_their_own(tmp_path: Path) -> None:
    """torch.compile looks up by its name what a class uses of its module, and pickle the class."""
    first = tmp_path / "a/mine.py"
    for file, names in ((first, "WIDTH = 2"), (tmp_path / "b/mine.py", "")):
        file.parent.mkdir()
        file.write_text(
            f"from torch import nn\n{names}\nclass Twice(nn.Module):\n    def forward(self, x): return WIDTH * x"
        )
    twice = user_code.load(first).Twice
    user_code.load(file)
    assert torch.compile(torch.nn.Sequential(twice()), backend="eager")(torch.ones(1)).tolist() == [2]
    assert pickle.loads(pickle.dumps(twice)) is twice


def test_a_file_shares_the_module_that_the_users_process_has_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert user_code.load(file).Kind is importlib.import_module("utils").Kind


def test_an_edited_helper_is_imported_anew(tmp_path: Path) -> None:
    """Also one that only another helper imports."""
    file = project(tmp_path, "layers")
    (tmp_path / "layers.py").write_text("from sizes import NAME\nclass Kind: pass")
    (tmp_path / "sizes.py").write_text("NAME = 'old'")
    old = user_code.load(file)
    assert user_code.load(file).Kind is old.Kind
    (tmp_path / "sizes.py").write_text("NAME = 'edited'")
    os.utime(tmp_path / "sizes.py", (2e9, 2e9))
    new = user_code.load(file)
    assert (old.NAME, new.NAME) == ("old", "edited")
    assert pickle.loads(pickle.dumps(new.Kind)) is new.Kind


def test_the_data_and_the_model_of_a_run_have_helpers_of_one_name(tmp_path: Path) -> None:
    data, net = project(tmp_path / "data"), project(tmp_path / "net")
    clips = "import numpy as np\nassert NAME == 'data'\nclips = [(np.zeros((4, 16, 16, 3), np.uint8), NAME)]\n"
    data.write_text(f"{data.read_text()}\n{clips}")
    model = """
        from torch import nn
        def build(classes):
            assert later() == NAME == "net"
            return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(classes))
    """
    net.write_text(f"{net.read_text()}\n{dedent(model).replace('LazyLinear(', 'Linear(4 * 14 * 14, ')}")
    train = f"{data}:clips"
    tree = {"model": f"{net}:build", "ticks": 1, "data": {"train": train, "size": 16}}
    assert len(opened(train)) == 1
    assert build(parse(tree, "test"), 3)(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
