"""Load a run file (TOML), apply `--set section.key=value` overrides, and validate the result."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from common.config.setting_errors import explain
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
        raise ConfigError("\n".join(f"{origin}: {text}" for text in explain(error.errors(), tree))) from None


def apply(override: str, tree: dict[str, Any], option: str = "--set") -> None:
    """Apply one `section.key=value`, given by an option. A value that is not valid TOML is taken as a string.

    Raises:
        ConfigError: it has another form.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{option} {override}: write it as {'section.key' if option == '--set' else 'key'}=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    _put(tree, key.strip(), parsed, f"{option} {override}")
