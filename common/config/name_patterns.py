"""The patterns of the settings `freeze` and `optimiser.rates`: glob patterns of the names of a model's parts.

A pattern matches a parameter by its name or by that of a module that it belongs to: `stem`, `layer1.*`, `*.bias`.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from common.errors import ConfigError


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches the parameter `name`, a.b.c, or a.b, or a."""
    while name:
        if fnmatchcase(name, pattern):
            return True
        name = name.rpartition(".")[0]
    return False


def matching(names: Iterable[str], pattern: str, setting: str) -> list[str]:
    """The parameters that a pattern matches. Raises ConfigError, which names the setting, if there are none."""
    names = list(names)
    if found := [name for name in names if matches(name, pattern)]:
        return found
    parts = dict.fromkeys(name.partition(".")[0] for name in names)
    raise ConfigError(f"{setting} = {pattern!r} matches no parameter. The model's parts: {', '.join(parts)}")
