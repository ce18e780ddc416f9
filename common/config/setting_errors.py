"""What is wrong with settings, as sentences with a remedy: from the errors that pydantic finds."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from common.config.plain_values import NOT_PLAIN
from common.config.setting_values import in_words
from common.config.settings import Config


def explain(problems: Sequence[Any], tree: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each wrong setting of `tree`; `problems` are pydantic's."""
    told = set()
    for problem in problems:
        location = [str(part) for part in problem["loc"]]
        place = _setting(location)
        if problem["type"] == "extra_forbidden":
            yield f"unknown setting {'.'.join(location)}. {_nearest(location)}"
        elif problem["type"] == "value_error":
            yield problem["msg"].removeprefix("Value error, ")
        elif problem["type"] == NOT_PLAIN:
            yield f"{'.'.join(place)}{problem['msg']}"
        elif problem["type"] == "missing":
            yield f"the setting {'.'.join(place)} is missing: {_help(place)}"
        elif (key := ".".join(place)) not in told:  # of a union there is a problem for each of its types
            told.add(key)
            why = f"{problem['msg']}. " if place == location else ""
            yield f"{key} = {_given(place, tree)!r} is invalid. {why}Expected: {_words(place)}. {key}: {_help(place)}"


def _setting(location: Sequence[str]) -> list[str]:
    """The setting itself: pydantic goes on into its type and its elements."""
    section, found = Config, list[str]()
    for part in location:
        found.append(part)
        field = section.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            break
        section = field.annotation  # type: ignore[assignment]
    return found


def _given(place: Sequence[str], tree: Mapping[str, Any]) -> Any:
    value: Any = tree
    for name in place:
        value = value[name]
    return value


def _words(place: Sequence[str]) -> str:
    schema = Config.model_json_schema()
    tree = schema
    for name in place:
        tree = tree["properties"][name]
        if "$ref" in tree:
            tree = schema["$defs"][tree["$ref"].rpartition("/")[2]]
    return "a section" if "properties" in tree else in_words(tree).replace("`", "")


def _help(place: list[str]) -> str:
    section = _section_of(place)
    field = section.model_fields.get(place[-1]) if section else None
    return (field.description if field else None) or "see docs/settings.md"


def _section_of(location: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Config
    for part in location[:-1]:
        field = section.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return None
        section = field.annotation
    return section


def _nearest(location: list[str]) -> str:
    section = _section_of(location)
    if section is None:
        return ""
    names, prefix = list(section.model_fields), ".".join([*location[:-1], ""])
    own = [f"{prefix}{name}" for name in difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)]
    elsewhere = [f"{name}.{location[-1]}" for name in Config.model_fields if _has(name, location[-1])]
    if found := (elsewhere or own)[:2]:
        return f"Did you mean {' or '.join(found)}?"
    return f"Allowed here: {', '.join(names)}"


def _has(section: str, name: str) -> bool:
    """Whether a section has a setting of this name."""
    found = _section_of([section, name])
    return found is not None and name in found.model_fields
