"""timm's image models (`model = "timm:NAME"`), cut into blocks by cutting.py."""

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from common.errors import ConfigError

PREFIX = "timm:"
_MISSING = 'model = "timm:…" needs the package timm: pip install "sideways-video[timm]"'


def factory(name: str) -> Callable[..., nn.Module]:
    """The factory of a model of timm, with its name there. Its weights are random.

    Raises:
        ConfigError: timm is not installed, or has no such model.
    """
    timm = load_timm()
    if not timm.is_model(name):
        plain = name.partition(".")[0]
        near = difflib.get_close_matches(plain, timm.list_models(), 3, 0.5)
        raise ConfigError(
            f"model = {PREFIX + name!r}: timm {timm.__version__} has no such model. "
            + (f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them")
        )

    def build(classes: int, channels: int, size: int | tuple[int, int], **options: Any) -> nn.Module:
        """`options`: further arguments of timm.create_model."""
        given = {"num_classes": classes, "in_chans": channels, **_size(name, size), **options}
        model: nn.Module = timm.create_model(name, pretrained=False, **given)
        return model

    return build


def _size(name: str, size: int | tuple[int, int]) -> dict[str, Any]:
    """The frames' size, for models that are built for one size."""
    import timm

    settings = timm.get_pretrained_cfg(name)
    return {"img_size": size} if settings is not None and settings.fixed_input_size else {}


def load_timm() -> Any:
    """The package timm. Raises ConfigError if it is not installed."""
    import common.torchvision_import  # noqa: F401  # timm imports torchvision, which must be imported like this

    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise ConfigError(_MISSING) from error
    return timm
