"""Settings with values of any kind, such as model_args: from Python they are passed on as a run file holds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

NOT_PLAIN = "not_plain"  # pydantic's type of the error
_PLAIN = (str, bool, int, float)
_WRONG = (
    "cannot be passed to the processes of a run and kept with its model: only text, numbers, true or false, lists and "
    "tables can. Leave it out to use the default, or write a model or a figure of your own that sets it"
)


def plain(value: Any) -> Any:
    """The value as TOML has it: numbers of numpy and torch as Python's, tuples as lists, paths as text.

    Raises:
        PydanticCustomError: it is of no such kind, as an object or a date. Its message follows the name of the setting.
    """
    return _plain(value, "")


def _plain(value: Any, place: str) -> Any:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(part, f"{place}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{place}[{number}]") for number, part in enumerate(value)]
    if not isinstance(value, _PLAIN):
        raise PydanticCustomError(NOT_PLAIN, "{text}", {"text": f"{place} = {value!r} {_WRONG}"})
    return value


Arguments = Annotated[dict[str, Any], AfterValidator(plain)]
