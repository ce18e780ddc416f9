"""The tables of README and docs hold the figures of benchmarks/results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures

ROOT = Path(__file__).parents[3]


def test_every_table_holds_the_figures_of_the_results() -> None:
    changed = [file.name for file in figures.documents() if figures.updated(file.read_text()) != file.read_text()]
    assert not changed, "run make figures"


def test_every_layout_and_every_result_is_used() -> None:
    texts = [file.read_text() for file in figures.documents()]
    shown = {name for text in texts for _, name, _ in figures.BLOCK.findall(text)}
    assert shown == {file.stem for file in figures.TABLES.glob("*.md")} | figures.SCHEDULES.keys()
    layouts = "".join(file.read_text() for file in figures.TABLES.glob("*.md"))
    used = {path.split(" > ")[0] for path, _ in figures.FIELD.findall(layouts)}
    assert used == {file.stem for file in figures.RESULTS.glob("*.json")}


def test_every_result_says_where_it_comes_from() -> None:
    for file in figures.RESULTS.glob("*.json"):
        result = json.loads(file.read_text())
        assert result.keys() - {"note"} == {*figures.ABOUT, "figures"}, file
        assert result["machine"]
        assert result["date"]


def test_fields_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = {"top1": 0.5, "lowest": 0.25, "highest": 0.75}
    values = {"rates": {"2": 1.26, "4": 2.0}, "ticks": [4, 8], "none": None, "many": 12345.0, "of": spread}
    (tmp_path / "some.json").write_text(json.dumps({"machine": "2 cores", "figures": values}))
    layout = "{some > rates:.1f} | {some > ticks > 1:} | {some > ticks:} | {some > none:.2f} | {some > many:,.0f} | "
    (tmp_path / "it.md").write_text(layout + "{some > of:spread} | {some > of:bold spread} | {some > machine:}\n")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "TABLES", tmp_path)
    text = figures.updated("before <!-- figures: it -->\nold\n<!-- end --> after")
    row = "1.3 / 2.0 | 8 | 4, 8 | – | 12,345 | 0.500 (0.250 … 0.750) | **0.500** (0.250 … 0.750) | 2 cores"
    assert text == f"before <!-- figures: it -->\n\n{row}\n\n<!-- end --> after"
    assert figures.updated(text) == text


@pytest.mark.parametrize(
    ("layout", "message"),
    [("{some > b:.2f}", "it.md: there is no figure some > b"), ("{other > a:.2f}", "there are no results of other")],
)
def test_missing_figures_are_named(layout: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.json").write_text('{"figures": {"a": 1}}')
    (tmp_path / "it.md").write_text(layout)
    figures._result.cache_clear()
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "TABLES", tmp_path)
    with pytest.raises(SystemExit, match=message):
        figures.table("it")
    with pytest.raises(SystemExit, match="no layout of a table missing"):
        figures.table("missing")


def test_the_drawn_schedule_is_the_rules() -> None:
    script = [sys.executable, "docs/draw_schedule.py"]
    drawn = subprocess.run(script, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert drawn.stdout == (ROOT / "docs/schedule.svg").read_text(), "run make figures"
