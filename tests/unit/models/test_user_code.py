"""A user's modules take precedence in the user's own code, whatever their names, and nowhere else."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from common.config.run_file import parse
from common.errors import ConfigError
from common.models import build, user_code
from common.partition.model_check import check_model
from tests.support.processes import environment, sideways
from tests.support.settings import settings, write_run_file

MODEL = """
    from torch import nn
    from common.layers import block
    import helpers

    def small(classes, channels):
        from common.sizes import WIDTH  # after the file was imported
        import coordinator
        assert coordinator.MINE
        assert helpers.WIDTH == WIDTH
        return nn.Sequential(block(channels, WIDTH), block(WIDTH, WIDTH), nn.Flatten(), nn.LazyLinear(classes))
"""
FILES = {
    "mine.py": MODEL,
    "common/__init__.py": "",
    "common/sizes.py": "WIDTH = 5",
    "common/layers.py": """
        from torch import nn
        from . import sizes

        def block(inputs, outputs):
            from common.sizes import WIDTH
            assert WIDTH == sizes.WIDTH
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2), nn.ReLU())
    """,
    "helpers.py": "from common.sizes import WIDTH",
    "coordinator.py": "MINE = True",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    model = tmp_path / "mine.py"
    model.write_text(model.read_text().replace("nn.LazyLinear(classes)", "nn.Linear(WIDTH * 9, classes)"))
    return tmp_path


def test_a_users_file_imports_its_own_common_and_the_product_keeps_its_own(folder: Path) -> None:
    ours = {name: module for name, module in sys.modules.items() if name.startswith(("common", "coordinator"))}
    config = parse({"model": f"{folder / 'mine.py'}:small", "ticks": 1, "stages": 2, "data": {"train": "x"}}, "test")
    model = build(config, 3)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    import common.config.settings
    import coordinator.video.files.clips  # noqa: F401

    assert common.config.settings.Config is type(config)
    assert all(sys.modules[name] is module for name, module in ours.items())


@pytest.mark.long
@pytest.mark.parametrize("first", ["", "on the path"])
def test_a_run_trains_next_to_a_users_own_common_package(folder: Path, videos: Path, first: str) -> None:
    """`sideways train` in that folder, also if the user's folder precedes the product's on Python's path."""
    if first:
        (folder / "coordinator.py").unlink()
        model = folder / "mine.py"
        lines = [line for line in model.read_text().splitlines() if "coordinator" not in line]
        model.write_text("\n".join(lines))
    tree = settings(videos, model="mine.py:small", model_args={}, split=[1, 3], ticks=20, name="it")
    done = sideways(
        "train", write_run_file(folder / "run.toml", tree), "--json", cwd=folder, before=folder if first else None
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ticks"] == 20


def test_a_users_file_can_import_the_products_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `common` without Python files, or the product's own checkout, hides nothing."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "notes.txt").write_text("x")
    (tmp_path / "mine.py").write_text("from common.models.chain import Chain\nfrom common.errors import ConfigError\n")
    for place in (tmp_path, Path(__file__).parents[3]):
        monkeypatch.chdir(place)
        assert user_code.load(tmp_path / "mine.py").ConfigError is ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(3)",
        "import sys\ndef small():\n    sys.exit('no')",
    ],
)
def test_a_model_that_exits_the_process_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    config = parse({"model": f"{tmp_path / 'mine.py'}:small", "ticks": 1, "data": {"train": "x"}}, "test")
    with pytest.raises(ConfigError, match=r"calls sys\.exit"):
        build(config, 3)


def test_a_block_that_exits_the_process_is_an_error(tmp_path: Path) -> None:
    class Ends(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sys.exit(1)

    config = parse({"ticks": 1, "data": {"train": "x"}}, "test")
    with pytest.raises(ConfigError, match=r"block 0 calls sys\.exit\(1\)"):
        check_model(torch.nn.Sequential(Ends()), config, 3)


def test_functions_of_a_users_module_can_be_compiled(folder: Path) -> None:
    """torch.compile reads the globals of a module's functions."""
    (folder / "mine.py").write_text("def double(x):\n    import common.sizes\n    return 2 * x + len([1])\n")
    double = user_code.load(folder / "mine.py").double
    assert torch.equal(torch.compile(double, backend="eager")(torch.ones(2)), torch.full((2,), 3.0))


def test_a_file_of_a_package_is_a_module_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative imports work, whatever the package is named, and from wherever the file is named."""
    for package in ("nets", "common"):
        folder = tmp_path / package / "deep"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder.parent / "sizes.py").write_text(f"NAME = '{package}'")
        (folder / "mine.py").write_text(f"from ..sizes import NAME\nimport {package}.sizes as s\nassert s.NAME == NAME")
        assert package == user_code.load(folder / "mine.py").NAME

    other = tmp_path / "site-packages" / "nets"
    (other / "deep").mkdir(parents=True)
    for file in (other / "__init__.py", other / "deep/__init__.py", other / "deep/mine.py"):
        file.touch()
    with pytest.raises(ConfigError, match=r"nets/__init__.py was imported under that name: rename one of them"):
        user_code.load(other / "deep" / "mine.py")


def test_a_users_modules_import_our_public_names(tmp_path: Path) -> None:
    """Also while the user's own `common` is being imported."""
    from common.models.temporal import Memory

    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    (tmp_path / "common" / "blocks.py").write_text("import sideways\nfrom sideways import Memory\nM = sideways.Memory")
    (tmp_path / "mine.py").write_text("from common.blocks import M, Memory\nassert M is Memory")
    assert user_code.load(tmp_path / "mine.py").M is Memory


def test_the_import_of_a_script_ends_where_it_starts_a_run(tmp_path: Path) -> None:
    """Or where it loads a model that it defines itself."""
    script = tmp_path / "script.py"
    text = """
        import sideways
        from common.models import user_code
        from pathlib import Path
        WIDTH = 3
        try:
            {call}
        finally:
            CLEAN = True
        WIDTH = 4
    """
    for call in ("sideways.train('no.toml')", f"user_code.load(Path({str(script)!r}))"):
        script.write_text(dedent(text.format(call=call)))
        module = user_code.load(script)
        assert (module.WIDTH, module.CLEAN) == (3, True)
    user_code.end_import()  # nothing is being imported
    (tmp_path / "starting").mkdir()
    (tmp_path / "starting" / "__init__.py").touch()
    file = tmp_path / "starting" / "starts.py"
    file.write_text("import sideways\nsideways.train('no.toml')")
    with pytest.raises(ConfigError, match="starts a run when imported"):
        user_code.load(file)


@pytest.mark.long
@pytest.mark.parametrize("where", ["", "    "], ids=["in the file", "in the function"])
def test_a_users_model_file_may_import_torchvision_beside_a_cpu_only_torch(tmp_path: Path, where: str) -> None:
    """In a process that has not imported it before."""
    import_it = "from torchvision.models import resnet18"
    lines = ["", "def build(classes):", where and where + import_it, "    return resnet18(num_classes=classes)"]
    (tmp_path / "mine.py").write_text("\n".join([import_it if not where else "", *lines]))
    code = """
        from common.config.run_file import parse
        from common.models import build
        tree = {"model": "mine.py:build", "ticks": 1, "stages": 2, "data": {"train": "x", "size": 32}}
        print(len(build(parse(tree, "test"), 3)))
    """
    command = [sys.executable, "-c", dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "10", done.stderr
