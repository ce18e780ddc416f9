"""Writes the measured figures into the tables of README and docs: `make figures`.

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`. Its layout is benchmarks/tables/NAME.md: Markdown
with fields such as `{peers > vgg8_64_b8 > vs_ddp:.2f}`, a file of benchmarks/results, keys, and Python's format. The
keys lead through the file's `figures`, which are what a benchmark prints with --json; `{peers > machine:}`, `commit`,
`date` and `command` say where they come from. benchmarks/save.py writes such files.

null becomes a dash, several values are written one after another, and the formats `spread` and `bold spread` give the
mean (lowest … highest) of a score over seeds.

The schedules are not measured but come from common/rule/schedule.py.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from common.rule.schedule import Schedule

ROOT = Path(__file__).resolve().parent.parent
RESULTS, TABLES = ROOT / "benchmarks/results", ROOT / "benchmarks/tables"
ABOUT = ("machine", "commit", "date", "command")
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIELD = re.compile(r"\{([^{}]+?)(?::([^:{}]*))?\}")


def main() -> None:
    """Rewrite every document whose figures have changed."""
    for file in documents():
        text = file.read_text()
        new = updated(text)
        if new != text:
            file.write_text(new)
            print(f"{file.relative_to(ROOT)}: new figures")


def documents() -> Iterator[Path]:
    """The files that may hold tables."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def updated(text: str) -> str:
    """A document's text with every table written anew. Raises SystemExit if a table or a figure does not exist."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{table(found[2])}\n{found[3]}", text)


def table(name: str) -> str:
    """The Markdown of a table, ending with a newline."""
    if name in SCHEDULES:
        return f"```\n{SCHEDULES[name]()}\n```\n"
    file = TABLES / f"{name}.md"
    if not file.is_file():
        raise SystemExit(f"there is no layout of a table {name}: benchmarks/tables/{file.name} does not exist")
    return FIELD.sub(lambda found: _field(name, found[1], found[2] or ""), file.read_text())


def _field(table: str, path: str, form: str) -> str:
    """A figure as text."""
    value = figure(table, path)
    if form.endswith("spread"):
        mean = f"**{value['top1']:.3f}**" if form.startswith("bold") else f"{value['top1']:.3f}"
        return f"{mean} ({value['lowest']:.3f} … {value['highest']:.3f})"
    if isinstance(value, dict | list):
        several, between = (value.values(), " / ") if isinstance(value, dict) else (value, ", ")
        return between.join(format(one, form) for one in several)
    return "–" if value is None else format(value, form)


def figure(table: str, path: str) -> Any:
    """The value at a path such as `peers > vgg8_64_b8 > vs_ddp`."""
    name, *keys = path.split(" > ")
    value = _result(name)
    try:
        for key in keys if keys[0] in ABOUT else ["figures", *keys]:
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, ValueError) as error:
        raise SystemExit(f"benchmarks/tables/{table}.md: there is no figure {path}: {error} is missing") from error
    return value


@cache
def _result(name: str) -> Any:
    if not (RESULTS / f"{name}.json").is_file():
        raise SystemExit(f"there are no results of {name}: benchmarks/results/{name}.json does not exist")
    return json.loads((RESULTS / f"{name}.json").read_text())


SCHEDULES: dict[str, Callable[[], str]] = {
    "schedule": lambda: Schedule(4).table(9),
    "schedule-edges": lambda: Schedule(3, (1, 2)).table(9),
}


if __name__ == "__main__":
    main()
