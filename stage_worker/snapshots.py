"""Snapshots of a stage's state in memory, from which the stage goes on when a process of the run is lost.

With recovery.mode = "heal" a stage keeps one every n ticks, written in the background, and one more when it loses a
peer. The next attempt's stage then goes on from it: a stage that was not lost has lost nothing.

    stageI-R.TICK         the state of stage I, replica R, before TICK, as in a checkpoint but for what is in flight
    stageI-R-last.TICK    the one that it kept as it lost a peer
"""

import threading
from itertools import product
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from common.messages.stage_calls import Snapshot
from common.processes.lifecycle import print_error
from common.processes.snapshot_folder import SnapshotFolder
from stage_worker import checkpoint
from stage_worker.assembly import Assembly


class Snapshots:
    """The snapshots of one stage."""

    def __init__(self, folder: Path, stage: int, replica: int, replicas: int) -> None:
        """`folder` on this host. Raises ConfigError if it cannot be used."""
        self._folder = SnapshotFolder(folder)
        self._stage, self._replica, self._replicas = stage, replica, replicas
        self._built: Assembly | None = None
        self._writing: threading.Thread | None = None
        self._every = self._next = 0

    def found(self) -> list[Snapshot]:
        """What is there of this stage, of any replica."""
        kinds = product(range(self._replicas), (False, True))
        names = {(replica, last): self._name(replica, last) for replica, last in kinds}
        return [
            Snapshot(tick, last, replica)
            for (replica, last), name in names.items()
            for tick in self._folder.ticks(name)
        ]

    def _name(self, replica: int, last: bool) -> str:
        return f"stage{self._stage}-{replica}{'-last' * last}"

    def load(self, built: Assembly, source: Snapshot, tick: int) -> None:
        """Restore the stage from a snapshot, to go on at `tick`. Raises OSError, or RuntimeError if it does not fit."""
        state = load_file(self._folder.file(self._name(source.replica, source.last), source.tick))
        checkpoint.load_own(built, state, tick, memories=source.replica == self._replica)

    def begin(self, built: Assembly, tick: int) -> None:
        """Keep a snapshot now, and every recovery.snapshot_every ticks from now on."""
        self._built, self._every = built, built.stage.config.recovery.snapshot_every
        self._keep(tick)

    def ticked(self, tick: int) -> None:
        """A tick has ended: keep a snapshot if one is due."""
        if tick + 1 >= self._next:
            self._keep(tick + 1)

    def _keep(self, tick: int) -> None:
        """Copy the state, and write it in the background, unless the last one is still being written."""
        assert self._built is not None
        self._next = tick + self._every
        if self._writing is None or not self._writing.is_alive():
            state = checkpoint.copy_own(self._built)
            self._writing = threading.Thread(target=self._replace, args=(tick, state), name="snapshot", daemon=True)
            self._writing.start()

    def keep_last(self, tick: int) -> None:
        """Keep the state before `tick`, and return once it is written: the process ends. Only after `begin`."""
        if self._built is None:
            return
        if self._writing is not None:
            self._writing.join()
        self._write(tick, checkpoint.copy_own(self._built), last=True)

    def leave(self) -> None:
        """The run ends: remove what this stage keeps."""
        if self._writing is not None:
            self._writing.join()
        self._folder.leave(self._name(self._replica, last=False), self._name(self._replica, last=True))

    def _replace(self, tick: int, state: dict[str, Tensor]) -> None:
        """Keep a snapshot in place of all others, also of the last one of an earlier attempt."""
        if self._write(tick, state, last=False):
            self._folder.forget(self._name(self._replica, last=True))

    def _write(self, tick: int, state: dict[str, Tensor], last: bool) -> bool:
        """Whether the snapshot could be written."""
        try:
            self._folder.write(self._name(self._replica, last), tick, lambda path: save_file(state, path))
        except Exception as error:
            reason = str(error).splitlines()[0]
            print_error(
                f"warning: stage {self._stage}, tick {tick}: no snapshot could be kept in {self._folder.path} "
                f"({reason}); if a process is lost, this stage goes on from an older one: free memory there"
            )
            return False
        return True
