"""Settings without the passwords that may be in them, to be shown or sent away."""

import re
from typing import Any

from common.config.settings import Config

_USER = re.compile(r"//[^/?#]*@")
_IN_QUERY = re.compile(r"([?&][^=&]*(?:pass|pwd|token|key|secret|user|auth)[^=&]*=)[^&]*")
_ADDRESSES, _OPTIONS = ("train", "val", "sources"), ("source_options", "shard_options")
_HIDDEN = "…"


def without_secrets(address: str) -> str:
    """An address with user, password and whatever else looks like a credential replaced by "…"."""
    return _IN_QUERY.sub(rf"\1{_HIDDEN}", _USER.sub(f"//{_HIDDEN}@", address))


def public_settings(config: Config) -> tuple[dict[str, Any], bool]:
    """The settings as a tree of JSON values, and whether anything in it is hidden, as are all values of options."""
    tree = config.model_dump(mode="json", exclude_none=True, exclude={"name"})
    shown = {**tree, "data": _public(tree["data"])}
    return shown, shown != tree


def _public(data: dict[str, Any]) -> dict[str, Any]:
    addresses = {name: _each(data[name]) for name in _ADDRESSES if name in data}
    options = {name: dict.fromkeys(data[name], _HIDDEN) for name in _OPTIONS if name in data}
    return {**data, **addresses, **options}


def _each(value: Any) -> Any:
    return [without_secrets(each) for each in value] if isinstance(value, list) else without_secrets(str(value))
