"""The page of all settings: names, values in TOML, and the descriptions that the models of common/config give them.

python -m common.config.settings_page > docs/settings.md
"""

from collections.abc import Iterator
from typing import Any

from common.config.settings import Config

_TITLE = """\
# Settings

A run file is TOML. `--set section.key=value` overrides one setting. An unknown or wrong one is an error that names the
nearest valid name. Relative paths are relative to the working directory. Some settings exclude or need others: all are
checked together before a run begins. This page is made from the code: `python -m common.config.settings_page`.
"""
_HEAD = "| setting | value | default | meaning |\n|---|---|---|---|"
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "object": "table"}
_SIZES = ("GiB", "MiB", "KiB")


def page() -> str:
    """The whole page, as Markdown."""
    schema = Config.model_json_schema()
    sections = {name: tree["$ref"] for name, tree in schema["properties"].items() if "$ref" in tree}
    parts = [_TITLE, "## Top level\n", *_table(schema)]
    for name, reference in sections.items():
        parts += [f"\n## [{name}]\n", *_table(schema["$defs"][reference.rpartition("/")[2]])]
    return "\n".join(parts) + "\n"


def _table(section: dict[str, Any]) -> Iterator[str]:
    yield _HEAD
    for name, tree in section["properties"].items():
        if "$ref" not in tree:
            default = tree.get("default", {} if tree.get("type") == "object" else None)
            shown = "–" if default is None else f"`{_toml(default, _is_size(tree))}`"
            yield f"| `{name}` | {_value(tree)} | {shown} | {tree['description']} |"


def _value(tree: dict[str, Any]) -> str:
    """What may be written, in words: of {"type": "integer", "minimum": 1} "whole number ≥ 1"."""
    if _is_size(tree):
        return "bytes, or text with a unit"
    if "anyOf" in tree:
        return " or ".join(dict.fromkeys(_value(each) for each in tree["anyOf"] if each["type"] != "null"))
    if "enum" in tree or "const" in tree:
        return " or ".join(f"`{_toml(each)}`" for each in tree.get("enum", [tree.get("const")]))
    if tree["type"] == "string":
        return "path" if tree.get("format") == "path" else "text"
    if "prefixItems" in tree:
        return "[" + ", ".join(_value(each) for each in tree["prefixItems"]) + "]"
    if tree["type"] == "array":
        return f"[{_value(tree['items'])}, …]"
    if {"minimum", "maximum"} <= set(tree):
        return f"{_NAMES[tree['type']]}, {_toml(tree['minimum'])} to {_toml(tree['maximum'])}"
    bounds = [text.format(_toml(tree[key])) for key, text in _BOUNDS.items() if key in tree]
    return " ".join([_NAMES[tree["type"]], ", ".join(bounds)]).strip()


def _is_size(tree: dict[str, Any]) -> bool:
    return any("pattern" in each for each in tree.get("anyOf", []))


def _toml(value: Any, is_size: bool = False) -> str:
    if is_size:
        power = next(power for power in (3, 2, 1) if value % 1024**power == 0)
        return f'"{value // 1024**power} {_SIZES[3 - power]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{}"
    return repr(value).removesuffix(".0")


if __name__ == "__main__":
    print(page(), end="")
