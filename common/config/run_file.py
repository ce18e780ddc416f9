"""Load a run file (TOML), apply `--set section.key=value` overrides, and validate the result."""

import difflib
import tomllib
import types
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
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8, as TOML requires") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    _drop_removed(tree)
    for override in overrides or []:
        apply(override, tree)
    if _overridden("stages", overrides):
        _measure_again(tree, overrides)
    return parse(tree, str(path))


def _measure_again(tree: dict[str, Any], overrides: list[str] | None) -> None:
    """Discard what was measured for another number of stages, unless it is overridden too."""
    split, stages, network = tree.get("split"), tree.get("stages"), tree.get("network")
    if isinstance(split, list) and len(split) != stages and not _overridden("split", overrides):
        del tree["split"]
    ticks = network.get("edge_ticks") if isinstance(network, dict) else None
    if isinstance(ticks, list) and len(ticks) + 1 != stages and not _overridden("network.edge_ticks", overrides):
        tree["network"]["edge_ticks"] = "auto"


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


def _overridden(key: str, overrides: list[str] | None) -> bool:
    return any(override.partition("=")[0].strip() == key for override in overrides or [])


def apply(override: str, tree: dict[str, Any]) -> None:
    """Apply one `section.key=value`. A value that is not valid TOML is taken as a string. Raises ConfigError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    *sections, name = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {override}: {section} is a setting, not a section")
    try:
        tree[name] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        tree[name] = value


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
