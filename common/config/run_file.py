"""Load a run file (TOML), apply `--set section.key=value` overrides, and validate the result."""

import difflib
import tomllib
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from common.config.settings import Config
from common.errors import ConfigError


def load(path: Path, overrides: list[str] | None = None) -> Config:
    """Read and validate a run file. Relative paths in it are relative to the working directory.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds an invalid setting. The message names the key, the
            allowed values and the nearest valid name.
    """
    tree = _read(path)
    for override in overrides or []:
        apply(override, tree)
    _drop_stale_split(tree, [override.partition("=")[0].strip() for override in overrides or []])
    return parse(tree, str(path))


def changed(origin: Path | Config | None, changes: Mapping[str, Any]) -> Config:
    """The settings of a run file, of a Config or none, with changes as Python values.

    Args:
        changes: by name, or by section.name; a mapping for a section changes the settings that it holds.

    Raises:
        ConfigError: as `load`.
    """
    if isinstance(origin, Config):
        tree = origin.model_dump(mode="json", exclude_none=True)
    else:
        tree = _read(origin) if origin is not None else {}
    for key, value in changes.items():
        parts = value if isinstance(value, Mapping) and _is_section(key) else {"": value}
        for name, part in parts.items():
            _put(tree, [*key.split("."), *([name] if name else [])], part, key)
    _drop_stale_split(tree, changes)
    return parse(tree, str(origin) if isinstance(origin, Path) else "settings")


def _is_section(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _put(tree: dict[str, Any], path: list[str], value: Any, shown: str) -> None:
    for section in path[:-1]:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{shown}: {section} is a setting, not a section")
    tree[path[-1]] = value


def _read(path: Path) -> dict[str, Any]:
    """The tree of a run file. Raises ConfigError."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8, as TOML requires") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    _drop_removed(tree)
    return tree


def _drop_stale_split(tree: dict[str, Any], overridden: Collection[str]) -> None:
    """Delete a split that was made for another number of stages than is now set, so that it is measured again."""
    stale = isinstance(tree.get("split"), list) and len(tree["split"]) != tree.get("stages")
    if stale and "stages" in overridden and "split" not in overridden:
        del tree["split"]


def _drop_removed(tree: dict[str, Any]) -> None:
    """Delete obsolete settings whose value is now fixed: the run file of an older run may still contain them."""
    network = tree.get("network")
    if isinstance(network, dict) and network.get("overlap") is True:
        del network["overlap"]


def parse(tree: dict[str, Any], origin: str) -> Config:
    """Validate a tree of settings that came from `origin`. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(dict(problem))}" for problem in error.errors())) from error


def apply(override: str, tree: dict[str, Any]) -> None:
    """Apply one `section.key=value`. A value that is not valid TOML is taken as a string. Raises ConfigError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    _put(tree, key.strip().split("."), parsed, f"--set {override}")


def _explain(problem: dict[str, Any]) -> str:
    """Format one pydantic error as a sentence with a remedy."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key}. {_nearest(location)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"the setting {key} is missing: {_field_help(location)}"
    return f"{key} = {problem['input']!r} is invalid: {message}. {key}: {_field_help(location)}"


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
    names = list(section.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
    prefix = ".".join([*location[:-1], ""])
    hint = f"Did you mean {prefix}{close[0]}? " if close else ""
    return f"{hint}Allowed here: {', '.join(names)}"


def _field_help(location: list[str]) -> str:
    section = _section_of(location)
    field = section.model_fields.get(location[-1]) if section else None
    if field is None:
        return "see docs/settings.md"
    return f"{field.description or ''} ({_type_name(field.annotation)})"


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type_name(choice) for choice in get_args(annotation) if choice is not type(None))
    return getattr(annotation, "__name__", str(annotation))
