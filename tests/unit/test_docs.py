"""The documentation agrees with the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from common.config import settings_page
from common.config.run_file import parse
from common.rule.schedule import Schedule

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_settings_is_that_of_the_code() -> None:
    command = "python -m common.config.settings_page > docs/settings.md"
    assert (ROOT / "docs/settings.md").read_text() == settings_page.page(), f"run {command}"


def test_the_examples_are_valid_run_files() -> None:
    for file in sorted((ROOT / "examples").glob("*.toml")):
        parse(tomllib.loads(file.read_text()), file.name)


def test_the_model_and_the_run_file_of_the_python_page_fit_together(tmp_path: Path) -> None:
    from common.models import build

    page = (ROOT / "docs/python.md").read_text()
    model, run_file = re.findall(r"```(?:py|toml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(model)
    tree = {**tomllib.loads(run_file), "model": f"{tmp_path / 'mine.py'}:build"}
    config = parse(tree, "docs/python.md")
    assert len(build(config, 7)) == 4


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_the_run_files_of_a_page_are_valid(page: Path) -> None:
    """Also those that leave out what every run file needs."""
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        tree: dict[str, Any] = tomllib.loads(text)
        if "epochs" not in tree:
            tree.setdefault("ticks", 1)
        data = tree.setdefault("data", {})
        if "sources" not in data:
            data.setdefault("train", "videos")
        parse(tree, f"{page.name}:\n{text}")


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_documents_lead_somewhere(name: str) -> None:
    """Of the documents that `make docs`, which checks its own, does not see."""
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / name).read_text()):
        file, _, anchor = link.partition("#")
        target = ROOT / (file or name)
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def test_the_readmes_table_is_the_schedule() -> None:
    readme = (ROOT / "README.md").read_text().replace("frames", "")
    rows = [" ".join(row.split()) for row in readme.splitlines() if re.match(r"(tick|stage \d) ", row)]
    assert rows == [" ".join(row.split()) for row in Schedule(3).table(7).splitlines()]
