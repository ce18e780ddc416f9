"""The structure of the repository: allowed imports, no import cycles, a test for every module."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.coverage import COVERED_BY

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "coordinator", "sideways", "stage_worker")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """The product's modules that a file imports; without `everywhere`, only those imported when it is imported."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not everywhere:
            continue
        if isinstance(node, ast.FunctionDef | ast.Lambda) and not everywhere:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else node.module for name in members}
        pending += ast.iter_child_nodes(node)
    return found & NAMES


def test_packages_import_only_what_they_may() -> None:
    allowed = {
        "common": {"common"},
        "coordinator": {"common", "coordinator"},
        "sideways": {"common", "coordinator", "sideways"},
        "stage_worker": {"common", "stage_worker"},
    }
    everyone = {"sideways.import_scope"}  # it imports none of them
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imported(path) - everyone
        if name.split(".")[0] not in allowed[path.relative_to(ROOT).parts[0]]
    ]
    assert not wrong


def test_there_are_no_import_cycles() -> None:
    graph = {name_of(path): imported(path, everywhere=False) - {name_of(path)} for path in MODULES}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


@pytest.mark.parametrize("package", ["common", "coordinator"])
def test_packages_have_few_top_level_modules(package: str) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= 5


def test_no_test_module_imports_another() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        others = [node.module for node in imports if node.module and node.module.split(".")[-1].startswith("test_")]
        assert not others, f"{path} imports {others}"


def test_decoding_processes_start_without_torch() -> None:
    """Importing torch takes seconds, and hundreds of megabytes in each process."""
    code = "import sys, coordinator.video.decoder_pool.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def own_test(path: Path) -> Path:
    """The unit test with a module's name, in the folder that mirrors the module's."""
    package, *folders, name = path.relative_to(ROOT).parts
    return ROOT.joinpath("tests/unit", *(folders or [package]), f"test_{name}")


def has_logic(path: Path) -> bool:
    nodes = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)


def test_every_module_has_a_test() -> None:
    without = {str(path.relative_to(ROOT)) for path in MODULES if has_logic(path) and not own_test(path).is_file()}
    assert without == COVERED_BY.keys(), "a module without a test of its name is named in tests/support/coverage.py"
    for module, tests in COVERED_BY.items():
        for test in tests:
            assert (ROOT / "tests" / test).is_file(), f"{module} is listed as covered by {test}, which does not exist"
