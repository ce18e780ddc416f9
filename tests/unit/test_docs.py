"""The documentation agrees with the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from common.config.run_file import parse
from common.config.settings import Config
from common.rule.schedule import Schedule

ROOT = Path(__file__).parent.parent.parent


def settings_of(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation)
        else:
            yield name, field.description or ""


def test_every_setting_is_documented_with_its_description() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| .* \| (.*) \|$", text, re.MULTILINE))
    expected = list(settings_of(Config))
    assert len(re.findall(r"^\| `", text, re.MULTILINE)) == len(expected)
    assert all(description and description in text for _, description in expected)
    assert set(rows) == {name for name, _ in expected}


def test_the_examples_are_valid_run_files() -> None:
    import tomllib

    for file in sorted((ROOT / "examples").glob("*.toml")):
        parse(tomllib.loads(file.read_text()), file.name)


def test_the_model_and_the_run_file_of_the_python_page_fit_together(tmp_path: Path) -> None:
    import tomllib

    from common.models import build

    page = (ROOT / "docs/python.md").read_text()
    model, run_file = re.findall(r"```(?:py|toml)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(model)
    tree = {**tomllib.loads(run_file), "model": f"{tmp_path / 'mine.py'}:build"}
    config = parse(tree, "docs/python.md")
    assert len(build(config, 7)) == 4


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_run_file_of_a_page_is_valid(name: str) -> None:
    import tomllib

    (run_file,) = re.findall(r"```toml\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    parse(tomllib.loads(run_file), name)


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
