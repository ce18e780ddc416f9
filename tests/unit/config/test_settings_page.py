"""The page of settings: every setting once, with a value in TOML that is its default."""

import re
import tomllib
from typing import Any

from common.config.run_file import parse
from common.config.settings_page import page

ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (?:`(.*)`|–) \| .+ \|$", re.MULTILINE)


def test_the_values_on_the_page_are_the_defaults_and_no_setting_lacks() -> None:
    least: dict[str, Any] = {"ticks": 1, "data": {"train": "x"}}
    config = parse(least, "test").model_dump(mode="json")
    parts = re.split(r"^## (?:Top level|\[(\w+)\])\n", page(), flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))

    tree: dict[str, Any] = {}
    for section, text in sections.items():
        rows = ROW.findall(text)
        expected = config[section] if section else config
        assert [name for name, _, _ in rows] == [name for name in expected if section or name not in sections]
        lines = "\n".join(f"{name} = {default}" for name, _, default in rows if default)
        tree |= {section: tomllib.loads(lines)} if section else tomllib.loads(lines)
    assert parse({**tree, "ticks": 1, "data": {**tree["data"], "train": "x"}}, "test").model_dump(mode="json") == config


def test_values_are_told_in_words() -> None:
    rows = {name: value for name, value, _ in ROW.findall(page())}
    assert rows["ahead"] == "whole number, 1 to 64"
    assert rows["epochs"] == "number > 0"
    assert rows["label_smoothing"] == "number ≥ 0, < 1"
    assert rows["compile"] == 'true or false or `"reduce-overhead"`'
    assert rows["scale"] == "[number, number]"
    assert rows["rates"] == "table"
    assert rows["cache_size"] == "bytes, or text with a unit"
