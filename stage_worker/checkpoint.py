"""A stage's part of a checkpoint: copied between two ticks, written in the background, read again.

torch.distributed.checkpoint writes all stages' parts into one folder, under the whole model's names:

    model.NAME  optimiser.NAME.KEY                    also read by another number of stages
    average.NAME  mean.NAME                           the same: of the weights, of the gradients
    gradient.NAME  stage.I.counters                   gradients gathered for an update that is still to come
    edge.forward.I  edge.backward.I                   the packets that stage I receives at the next tick, as bytes
    target.FRAME  target.FRAME.clips                  frame-sized targets whose frames are still climbing
"""

import threading
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from common.checkpoint_reader import Reader
from common.errors import PeerError
from common.rule.stage import Stage
from stage_worker.assembly import Assembly
from stage_worker.edges.ends import Receiver

# intended: every stage reads by itself, and a single stage writes by itself
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def copy_state(built: Assembly, tick: int) -> dict[str, Tensor]:
    """Copies, on the CPU, of everything that the ticks from `tick` on depend on."""
    stage = built.stage
    found = {f"model.{name}": value for name, value in stage.blocks.state_dict().items()}
    found |= stage.updater.state()
    found |= {_edge(way, stage): port.waiting(tick) for way, port in _edges(built) if port.expects(tick)}
    if built.targets is not None:
        first = max(built.origin, tick - (stage.config.stages - 1)) if not stage.config.exact else tick
        built.targets.gather(first, tick, tick)
        for (phase, frame), (frames, clips) in built.targets.aside.items():
            if phase == 0:
                found |= {f"target.{frame}": frames, f"target.{frame}.clips": torch.from_numpy(clips.copy())}
    updater = stage.updater
    counters = torch.tensor([updater.ticks, updater.accumulated, updater.updates])
    found[_counters(stage)] = counters
    return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}


def _edges(built: Assembly) -> Iterable[tuple[str, Receiver]]:
    ports = {"forward": built.ports.inputs, "backward": built.ports.gradients_in}
    return ((way, port) for way, port in ports.items() if port is not None)


def _edge(way: str, stage: Stage) -> str:
    return f"edge.{way}.{stage.index}"


def _counters(stage: Stage) -> str:
    return f"stage.{stage.index}.counters"


class CheckpointWriter:
    """Writes one copied state in a thread, together with the other stages."""

    def __init__(self, state: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> None:
        """`group` of all stages, which nothing else uses; None for a single stage."""
        self._error: str | None = None
        self._thread = threading.Thread(target=self._write, args=(state, folder, group), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until the checkpoint is written. Raises PeerError with the reason if it is not."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise PeerError(f"writing took longer than {seconds:g} s")
        if self._error is not None:
            raise PeerError(self._error)

    def _write(self, state: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> None:
        try:
            save(state, storage_writer=FileSystemWriter(folder), process_group=group, no_dist=group is None)
        except BaseException as error:  # a failed checkpoint does not end the training
            self._error = _first_line(error)


def _first_line(error: BaseException) -> str:
    """The first line of the cause: the library joins every stage's failure into one long text."""
    failures = getattr(error, "failures", None)  # CheckpointException
    cause = next(iter(failures.values()))[0] if failures else error
    line = str(cause).splitlines()[0] if str(cause) else ""
    hint = "the disk took no more bytes, so it is probably full: " if "inline_container" in line else ""
    return f"{hint}{type(cause).__name__}: {line}"


def restore(built: Assembly, folder: Path, tick: int, in_flight: bool, optimiser: bool) -> None:
    """Restore the stage's state at `tick`.

    Args:
        in_flight: also what was under way on the edges; else the pipeline begins empty, and warms up again.
        optimiser: also its state; else it begins anew.

    Raises:
        PeerError: the checkpoint cannot be read, or does not fit.
    """
    try:
        state = _read(built, folder, in_flight, optimiser)
        _load(built, state, tick)
        if in_flight:
            _put_in_flight(built, state, tick)
    except Exception as error:
        raise PeerError(f"{folder} cannot be read: {_first_line(error)}") from error


def _load(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    """Load the weights, the optimiser's state and its counters."""
    stage = built.stage
    stage.blocks.load_state_dict({name: state[f"model.{name}"] for name in stage.blocks.state_dict()})
    stage.updater.load(state)
    stage.updater.count(tick)
    if _counters(stage) in state:
        stage.updater.ticks, stage.updater.accumulated, stage.updater.updates = state[_counters(stage)].tolist()


def _put_in_flight(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    for way, port in _edges(built):
        if port.expects(tick):
            port.put(tick, state[_edge(way, built.stage)])
    if built.targets is not None:
        for name in [name for name in state if name.startswith("target.") and name.count(".") == 1]:
            built.targets.aside[0, int(name.split(".")[1])] = state[name], state[f"{name}.clips"].numpy()


def _read(built: Assembly, folder: Path, in_flight: bool, optimiser: bool) -> dict[str, Tensor]:
    reader = Reader(folder)
    entries = reader.read_metadata().state_dict_metadata
    state: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        and _is_ours(name, built, in_flight)
        and (optimiser or not name.startswith("optimiser."))
    }
    load(state, storage_reader=reader, no_dist=True)
    return state


def _is_ours(name: str, built: Assembly, in_flight: bool) -> bool:
    stage = built.stage
    kind, _, rest = name.partition(".")
    if kind in ("model", "average", "mean", "gradient"):
        return rest in stage.blocks.state_dict() and (in_flight or kind != "gradient")
    if kind == "optimiser":
        return rest.rpartition(".")[0] in stage.blocks.state_dict()
    if kind == "target":
        return in_flight and built.targets is not None
    return in_flight and name in (_counters(stage), _edge("forward", stage), _edge("backward", stage))
