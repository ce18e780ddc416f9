"""Depth-parallel training of video models, from Python: docs/python.md.

    result = sideways.train("run.toml", stages=2)       trains, in processes of its own
    result = sideways.result("runs/NAME")               that of any run
    model = sideways.load(result.directory)             an nn.Module that knows its classes and its frames
    model.predict("clip.mp4").top()                     classifies a clip; model.step(frame) a live stream

    Block, Chain            an existing model as a sequence of blocks
    Memory, Recent          base classes of blocks that remember earlier frames
    Motion, TemporalShift, CausalConv, ConvGRU      such blocks

All other modules are internal. The names here are imported when they are first used.
"""

from typing import TYPE_CHECKING, Any

from sideways.import_scope import ours

if TYPE_CHECKING:
    from common import __version__ as __version__
    from common.config.settings import Config as Config
    from common.errors import ConfigError as ConfigError
    from common.errors import DataError as DataError
    from common.errors import PeerError as PeerError
    from common.errors import SidewaysError as SidewaysError
    from common.models.chain import Block as Block
    from common.models.chain import Chain as Chain
    from common.models.temporal import CausalConv as CausalConv
    from common.models.temporal import ConvGRU as ConvGRU
    from common.models.temporal import Memory as Memory
    from common.models.temporal import Motion as Motion
    from common.models.temporal import Recent as Recent
    from common.models.temporal import TemporalShift as TemporalShift
    from coordinator.python.follower import Stop as Stop
    from coordinator.python.model import Model as Model
    from coordinator.python.model import Prediction as Prediction
    from coordinator.python.model import load as load
    from coordinator.python.result import Result as Result
    from coordinator.python.result import result as result
    from coordinator.python.train import train as train

_MODULES = {
    "common.config.settings": ("Config",),
    "common.errors": ("ConfigError", "DataError", "PeerError", "SidewaysError"),
    "common.models.chain": ("Block", "Chain"),
    "common.models.temporal": ("CausalConv", "ConvGRU", "Memory", "Motion", "Recent", "TemporalShift"),
    "common": ("__version__",),
    "coordinator.python.follower": ("Stop",),
    "coordinator.python.model": ("Model", "Prediction", "load"),
    "coordinator.python.result": ("Result", "result"),
    "coordinator.python.train": ("train",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sideways' has no attribute {name!r}. It has {', '.join(__all__)}")
    value = globals()[name] = getattr(ours(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
