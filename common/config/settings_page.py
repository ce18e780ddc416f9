"""The page of all settings: names, values in TOML, and the descriptions that the models of common/config give them.

python -m common.config.settings_page > docs/settings.md
"""

from collections.abc import Iterator
from typing import Any

from common.config.setting_values import as_toml, in_words, is_size
from common.config.settings import Config

_TITLE = """\
# Settings

A run file is TOML. `--set section.key=value` overrides one setting. An unknown or wrong one is an error that names the
nearest valid name. Relative paths are relative to the working directory. Some settings exclude or need others: all are
checked together before a run begins. This page is made from the code: `python -m common.config.settings_page`.
"""
_HEAD = "| setting | value | default | meaning |\n|---|---|---|---|"


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
            shown = "–" if default is None else f"`{as_toml(default, is_size(tree))}`"
            yield f"| `{name}` | {in_words(tree)} | {shown} | {tree['description']} |"


if __name__ == "__main__":
    print(page(), end="")
