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
    names = [override.partition("=")[0].strip() for override in overrides or []]
    _replace_length(tree, names)
    _measure_again(tree, names)
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
    by_name = _by_full_name(changes)
    for key, value in by_name.items():
        _put(tree, key, value, key)
    _replace_length(tree, by_name)
    _measure_again(tree, by_name)
    return parse(tree, str(origin) if isinstance(origin, Path) else "settings")


def _by_full_name(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with those of a section named section.name."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, Mapping) and _is_section(key):
            flat |= {f"{key}.{name}": part for name, part in value.items()}
        else:
            flat[key] = value
    return flat


def _is_section(name: str) -> bool:
    field = Config.model_fields.get(name)
    return field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _put(tree: dict[str, Any], key: str, value: Any, shown: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{shown}: {section} is a setting, not a section")
    tree[name] = value


def _read(path: Path) -> dict[str, Any]:
    """The tree of a run file. Raises ConfigError."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8, as TOML requires") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return tree


def _replace_length(tree: dict[str, Any], overridden: Collection[str]) -> None:
    """A length in ticks that is overridden replaces one in epochs, and the other way round."""
    for own, other in (("ticks", "epochs"), ("epochs", "ticks")):
        if own in overridden and other not in overridden:
            tree.pop(other, None)


def _measure_again(tree: dict[str, Any], overridden: Collection[str]) -> None:
    """Discard what was measured for another number of stages than is now set, unless it is overridden too."""
    if "stages" not in overridden:
        return
    split, stages, network = tree.get("split"), tree.get("stages"), tree.get("network")
    if isinstance(split, list) and len(split) != stages and "split" not in overridden:
        del tree["split"]
    ticks = network.get("edge_ticks") if isinstance(network, dict) else None
    if isinstance(ticks, list) and len(ticks) + 1 != stages and "network.edge_ticks" not in overridden:
        tree["network"]["edge_ticks"] = "auto"


def parse(tree: dict[str, Any], origin: str) -> Config:
    """Validate a tree of settings that came from `origin`. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(dict(problem))}" for problem in error.errors())) from None


def apply(override: str, tree: dict[str, Any]) -> None:
    """Apply one `section.key=value`. A value that is not valid TOML is taken as a string. Raises ConfigError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    _put(tree, key.strip(), parsed, f"--set {override}")


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
