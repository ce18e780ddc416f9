"""A stage's part of a checkpoint: copied between two ticks, written in the background, restored later.

torch.distributed.checkpoint writes all stages' parts into one folder, under the whole model's names:

    model.NAME  optimiser.NAME.KEY                    parameters and buffers; optimiser state
    average.NAME  mean.NAME                           running averages of the weights and of the gradients
    gradient.NAME  stage.I.counters                   gradients accumulated for the next update
    edge.forward.I  edge.backward.I                   the packets that stage I receives at the next tick, uint8
    edge.skipN.I  edge.skip-backN.I                   those of its N-th skip from below, and to above
    edge.WAY.I.M                                      those that it receives M ticks later, over edges of several ticks
    residual.WAY.I                                    what rounding for stage I's sends has lost so far, uint8
    memory.I.NAME  memory.I.@clips                    what stage I's blocks remember, and of which clips
    auxiliary.I.NAME                                  stage I's auxiliary classifier and its optimiser
    target.FRAME  target.FRAME.clips                  frame-sized targets of frames that have not reached the top stage

The first two lines can also be restored with another number of stages. The other replicas write what differs from the
first into folders of their own, replica-1, …
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

from common.checkpoint_reader import CheckpointReader
from common.errors import PeerError, first_line
from common.messages.frame_envelope import TRAINING
from common.messages.restorable import Restorable
from common.rule.packet import Packet
from common.rule.skips import SKIPS
from common.rule.stage import Stage
from stage_worker.assembly import Assembly
from stage_worker.edges.ends import Receiver

# intended: every stage reads its own part, and a single stage also writes alone
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


def copy_state(built: Assembly, tick: int, whole: bool = False) -> dict[str, Tensor]:
    """Copy everything that the ticks from `tick` on depend on to the CPU.

    `whole`: also what other replicas have alike.
    """
    stage, state = built.stage, _own(built)
    for way, port in _edges(built):
        state |= {_edge(way, stage, at - tick): port.waiting(at) for at in port.messages(tick)}
    state |= {_residual(way, stage): residual.to_bytes() for way, residual in _residuals(built)}
    if built.targets is not None:
        held = tick if stage.config.exact_gradients else tick - stage.config.ticks_to_top
        built.targets.gather(max(built.origin, held), tick, tick)
        for (phase, frame), (frames, clips) in built.targets.early.items():
            if phase == TRAINING:
                state |= {f"target.{frame}": frames, f"target.{frame}.clips": torch.from_numpy(clips.copy())}
    if built.replicas is not None and built.number and not whole:
        state = {name: value for name, value in state.items() if _differs(name, stage)}
    return _copied(state)


def copy_own(built: Assembly) -> dict[str, Tensor]:
    """Copy the stage's own state to the CPU, without what is in flight."""
    return _copied(_own(built))


def _own(built: Assembly) -> dict[str, Tensor]:
    stage = built.stage
    state = stage.state()
    state |= {f"{_memory(stage)}{name}": value for name, value in stage.memories.state().items()}
    if stage.auxiliary is not None:
        state |= {f"{_auxiliary(stage)}{name}": value for name, value in stage.auxiliary.state().items()}
    state[_counters(stage)] = stage.counters
    return state


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def folder_of_replica(folder: Path, replica: int) -> Path:
    """The folder of a checkpoint to which a replica writes."""
    return folder / f"replica-{replica}" if replica else folder


def _differs(name: str, stage: Stage) -> bool:
    """Whether the replicas of a stage have different values of this name: parameters are updated alike in all."""
    kind, _, rest = name.partition(".")
    if kind == "model":
        return rest in dict(stage.blocks.named_buffers())
    if kind == "auxiliary":
        return ".gradient." in name
    return kind not in ("optimiser", "average", "mean")


def _edges(built: Assembly) -> Iterable[tuple[str, Receiver]]:
    ports = built.ports
    yield from ((way, port) for way, port in (("forward", ports.inputs), ("backward", ports.gradients_in)) if port)
    yield from ((f"skip{number}", port) for number, port in enumerate(ports.skips_in))
    yield from ((f"skip-back{number}", port) for number, port in enumerate(ports.skip_gradients_in))


def _residuals(built: Assembly) -> Iterable[tuple[str, Packet]]:
    ports = built.ports
    senders = [("forward", ports.outputs), ("backward", ports.gradients_out)]
    senders += [(f"skip{number}", port) for number, port in enumerate(ports.skips_out)]
    senders += [(f"skip-back{number}", port) for number, port in enumerate(ports.skip_gradients_out)]
    for way, sender in senders:
        if sender is not None and sender.residual is not None:
            yield way, sender.residual


def _residual(way: str, stage: Stage) -> str:
    return f"residual.{way}.{stage.index}"


def _edge(way: str, stage: Stage, later: int) -> str:
    name = f"edge.{way}.{stage.index}"
    return f"{name}.{later}" if later else name


def _memory(stage: Stage) -> str:
    """Prefix of the names of a stage's memories: frames reach another number of stages at other ticks."""
    return f"memory.{stage.index}."


def _auxiliary(stage: Stage) -> str:
    """Prefix of the names of a stage's auxiliary classifier: it fits only stages that end at the same block."""
    return f"auxiliary.{stage.index}."


def _counters(stage: Stage) -> str:
    return f"stage.{stage.index}.counters"


class CheckpointWriter:
    """Writes a copied state in a background thread, together with the other stages."""

    def __init__(self, state: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> None:
        """Start writing. `group` must contain all stages and not be used otherwise; None for a single stage."""
        self._error: str | None = None
        self._thread = threading.Thread(target=self._write, args=(state, folder, group), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` until the checkpoint is written. Raises PeerError with the reason if it is not."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise PeerError(f"it was not written within {seconds:g} s: use a faster disk for the folder of runs")
        if self._error is not None:
            raise PeerError(self._error)

    def _write(self, state: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> None:
        try:
            # the state is in the host's memory; to copy ahead, torch would start CUDA on the first GPU
            writer = FileSystemWriter(folder, per_thread_copy_ahead=0)
            save(state, storage_writer=writer, process_group=group, no_dist=group is None)
        except BaseException as error:  # reported by `wait`: a failed checkpoint does not end the training
            self._error = _cause_of(error)


def _cause_of(error: BaseException) -> str:
    """The first line of the cause: torch joins the tracebacks of all stages into one long text."""
    failures = getattr(error, "failures", None)  # CheckpointException
    cause = next(iter(failures.values()))[0] if failures else error
    line = first_line(cause)
    hints = [hint for sign, hint in _HINTS.items() if sign in line]
    return f"{''.join(hints)}{type(cause).__name__}: {line}"


_HINTS = {
    "inline_container": "a write failed, so the disk is probably full: ",
    "Timed out waiting": "another stage was not done by then, so use a faster disk for the folder of runs: ",
}


def restore(built: Assembly, folder: Path, own: Path, tick: int, what: Restorable) -> None:
    """Restore the stage's state at `tick`.

    Args:
        own: the folder of what differs in this replica; `folder` if nothing does.

    Raises:
        PeerError: the checkpoint cannot be read, or does not fit the stage.
    """
    try:
        state = _read(built, folder, what)
        if own != folder:
            state |= _read(built, own, what)
        _load(built, state, tick)
        if what.in_flight:
            _put_in_flight(built, state, tick)
    except Exception as error:
        raise PeerError(f"cannot restore the checkpoint {folder}: {_cause_of(error)}") from error


def load_whole(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    """Load what `copy_state` gave, whole, at `tick`."""
    _load(built, state, tick)
    _put_in_flight(built, state, tick)


def load_own(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    """Load what `copy_own` gave, to go on at `tick`, but for what the blocks remember."""
    _load(built, state, tick)
    _, accumulated, updates = built.stage.counters.tolist()
    built.stage.counters = torch.tensor([tick, accumulated, updates])  # the learning rate goes by the run's ticks


def load_memories(built: Assembly, state: dict[str, Tensor]) -> None:
    """Load what the blocks remember from what `copy_own` gave."""
    built.stage.memories.load(_below(_memory(built.stage), state))


def _load(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    """Load the weights, the optimiser's state and the counters."""
    stage = built.stage
    stage.load(state)
    stage.memories.clear()
    stage.count(tick)
    if stage.auxiliary is not None and (auxiliary := _below(_auxiliary(stage), state)):
        stage.auxiliary.load(auxiliary)
    if _counters(stage) in state:
        stage.counters = state[_counters(stage)]


def _put_in_flight(built: Assembly, state: dict[str, Tensor], tick: int) -> None:
    stage = built.stage
    stage.memories.load(
        _below(_memory(stage), state), stage.config.micro_batch_count if stage.config.exact_gradients else 1
    )
    for way, port in _edges(built):
        for at in port.messages(tick):
            port.put(at, state[_edge(way, stage, at - tick)])
    for way, residual in _residuals(built):
        residual.from_bytes(state[_residual(way, stage)])
    if built.targets is not None:
        for name in [name for name in state if name.startswith("target.") and name.count(".") == 1]:
            built.targets.early[TRAINING, int(name.split(".")[1])] = state[name], state[f"{name}.clips"].numpy()


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _read(built: Assembly, folder: Path, what: Restorable) -> dict[str, Tensor]:
    reader = CheckpointReader(folder)
    entries = reader.read_metadata().state_dict_metadata
    state: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        and _is_ours(name, built, what)
        and (what.optimiser or not name.removeprefix(_auxiliary(built.stage)).startswith("optimiser."))
    }
    load(state, storage_reader=reader, no_dist=True)
    return state


def _is_ours(name: str, built: Assembly, what: Restorable) -> bool:
    stage = built.stage
    kind, _, rest = name.partition(".")
    if rest.startswith(SKIPS) and not what.same_split:
        return False
    if kind in ("model", "average", "mean", "gradient"):
        return rest in stage.weights() and (what.in_flight or kind != "gradient")
    if kind == "optimiser":
        return rest.rpartition(".")[0] in stage.weights()
    if kind == "target":
        return what.in_flight and built.targets is not None
    if kind == "auxiliary":
        gathered = name.removeprefix(_auxiliary(stage)).startswith("gradient.")
        return what.same_split and name.startswith(_auxiliary(stage)) and (what.in_flight or not gathered)
    if kind == "memory":
        return what.in_flight and name.startswith(_memory(stage))
    if kind == "residual":
        return what.in_flight and name in [_residual(way, stage) for way, _ in _residuals(built)]
    own = (_edge(way, stage, 0) for way, _ in _edges(built))
    return what.in_flight and (
        name == _counters(stage) or any(name == edge or name.startswith(f"{edge}.") for edge in own)
    )
