"""What may be written for a setting, in words, and values as TOML has them."""

from typing import Any

_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "object": "table"}
_SIZES = ("GiB", "MiB", "KiB")


def in_words(tree: dict[str, Any]) -> str:
    """What may be written for a setting with this JSON schema, such as "whole number ≥ 1"."""
    if is_size(tree):
        return "bytes, or text with a unit"
    if "anyOf" in tree:
        return " or ".join(dict.fromkeys(in_words(each) for each in tree["anyOf"] if each["type"] != "null"))
    if "enum" in tree or "const" in tree:
        return " or ".join(f"`{as_toml(each)}`" for each in tree.get("enum", [tree.get("const")]))
    if tree["type"] == "string":
        return "path" if tree.get("format") == "path" else "text"
    if "prefixItems" in tree:
        return "[" + ", ".join(in_words(each) for each in tree["prefixItems"]) + "]"
    if tree["type"] == "array":
        return f"[{in_words(tree['items'])}, …]"
    if {"minimum", "maximum"} <= set(tree):
        return f"{_NAMES[tree['type']]}, {as_toml(tree['minimum'])} to {as_toml(tree['maximum'])}"
    bounds = [text.format(as_toml(tree[key])) for key, text in _BOUNDS.items() if key in tree]
    return " ".join([_NAMES[tree["type"]], ", ".join(bounds)]).strip()


def is_size(tree: dict[str, Any]) -> bool:
    """Whether it is a number of bytes."""
    return any("pattern" in each for each in tree.get("anyOf", []))


def as_toml(value: Any, of_bytes: bool = False) -> str:
    """A value as TOML has it; a number of bytes with its unit."""
    if of_bytes:
        power = next(power for power in (3, 2, 1) if value % 1024**power == 0)
        return f'"{value // 1024**power} {_SIZES[3 - power]}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_toml(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{}"
    return repr(value).removesuffix(".0")
