"""Whether a stage's passes can be recorded and replayed (graph), and the recorder that does it."""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from common.config.settings import Config
from common.models.temporal import memories
from common.rule.optimiser import CAPTURABLE

Work = Callable[[], None]


class Recorder(Protocol):
    """Records what a device is given to do, as CUDA graphs do: memory and numbers of the host stay what they were."""

    def record(self, work: Work) -> Work:
        """A function that does on the same memory what `work` did. Recording may or may not do it once.

        Recordings share memory: they must be replayed in the order in which they were made. Raises if `work` does what
        cannot be recorded, such as waiting for the device.
        """

    def renew(self) -> None:
        """Begin a new series: the recordings that follow share no memory with those before, which are not replayed any
        more."""

    def seed(self, seed: int) -> None:
        """Set the generator from which the replays draw random numbers."""


def graph_wanted(config: Config, blocks: nn.Module) -> bool:
    """Whether the settings ask for graphs on the device of these blocks, so that rates are kept in tensors."""
    if config.graph == "auto":
        first = next(blocks.parameters(), None)
        wanted = first is not None and first.is_cuda
    else:
        wanted = config.graph
    return wanted and not _unusable(config)


def _unusable(config: Config) -> str:
    """What of the optimiser's settings a graph cannot have; empty if nothing."""
    if config.optimiser.name not in CAPTURABLE:
        return f"optimiser.name = {config.optimiser.name!r}"
    chosen = sorted({"fused", "foreach", "capturable", "differentiable"} & set(config.optimiser.args))
    return f"optimiser.args.{chosen[0]}" if chosen else ""


def obstacle(config: Config, blocks: nn.Module, replicas: int) -> str:
    """What of a run's settings cannot be replayed; empty if nothing is known before it is tried."""
    found = {
        f'algorithm = "{config.algorithm}"': config.exact_gradients and config.stages > 1,
        "compile": config.compile,
        _unusable(config): _unusable(config),
        "optimiser.orthogonal": config.optimiser.orthogonal,
        "rule.every above 1": config.rule.every > 1,
        "rule.auxiliary": config.rule.auxiliary,
        "skips": config.skip_pairs,
        "replicas": replicas > 1,
        "probe.every": config.probe.every,
        "blocks with a memory": memories(blocks),
        "a stage with nothing to learn": not any(value.requires_grad for value in blocks.parameters()),
    }
    return next((what for what, there in found.items() if there), "")
