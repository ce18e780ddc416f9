"""Which figures of an event are curves."""

import math
from collections.abc import Mapping
from typing import Any

_NO_CURVES = {"stage", "tick", "ticks", "time"}  # numbers of a report that are not metrics


def curves(where: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers that are metrics, named `where/name`."""
    return {f"{where}/{name}": value for name, value in figures.items() if name not in _NO_CURVES and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
