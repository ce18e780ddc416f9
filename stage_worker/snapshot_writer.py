"""Keeps snapshots of a stage while it trains: every n ticks, written in the background.

For recovery.mode = "exact" they have all that a checkpoint has, and all stages keep those of the same ticks, a few of
them. For "heal" they lack what is in flight, and a stage keeps one more when it loses a peer.

Where the run has several hosts, a copy of each is left on another one.
"""

import threading
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import first_line
from common.messages.snapshot import Snapshot
from common.messages.snapshot_copies import Copies
from common.processes.membership import Membership
from common.processes.output import print_error
from common.processes.snapshot_folder import SnapshotFolder
from stage_worker import checkpoint
from stage_worker.assembly import Assembly

_DRAINING = 5.0  # seconds; the launcher kills after 30


class SnapshotWriter(ABC):
    """Writes the snapshots of one stage."""

    def __init__(self, folder: SnapshotFolder, me: Membership, built: Assembly, copies: Copies | None) -> None:
        """`copies`: where each is left as well."""
        config = built.stage.config
        self._folder, self._me, self._built, self._copies = folder, me, built, copies
        self._every, self._kept = config.recovery.snapshot_ticks, config.snapshots_kept
        self._next = 0
        self._writing: threading.Thread | None = None

    @abstractmethod
    def is_due_after(self, tick: int) -> bool:
        """Whether a snapshot of the same tick is due in all stages after this tick."""

    def ticked(self, tick: int) -> None:
        """A tick has ended: keep a snapshot if one is due."""
        if tick + 1 >= self._next:
            self._next = tick + 1 + self._every
            self._keep(tick + 1)

    @abstractmethod
    def keep_last(self, tick: int) -> None:
        """The process ends before `tick`, as it has lost a peer. Returns once all is written."""

    def wait(self) -> None:
        """Wait until all is written."""
        if self._writing is not None:
            self._writing.join()

    @abstractmethod
    def _keep(self, tick: int) -> None:
        """Keep the state before `tick`."""

    def _keep_in_background(self, tick: int, state: dict[str, Tensor]) -> None:
        self._writing = threading.Thread(target=self._replace, args=(tick, state), name="snapshot", daemon=True)
        self._writing.start()

    def _replace(self, tick: int, state: dict[str, Tensor]) -> None:
        """Keep a snapshot in place of older ones."""
        own = self._own(tick, last=False)
        if self._write(own, state) and self._copies is not None:
            self._copies.send(own.name, tick, mapped(self._folder.file(own.name, tick)), self._kept)

    def _own(self, tick: int, last: bool) -> Snapshot:
        return Snapshot(tick, last, self._me.of_replica, self._me.stage)

    def _write(self, own: Snapshot, state: dict[str, Tensor]) -> bool:
        """Whether the snapshot could be written."""
        try:
            self._folder.write(own.name, own.tick, lambda path: save_file(state, path), self._kept)
        except Exception as error:
            reason = first_line(error)
            print_error(
                f"warning: stage {own.stage}, tick {own.tick}: no snapshot could be kept in {self._folder.path} "
                f"({reason}); if a process is lost, this stage goes on from an older one: free memory there"
            )
            return False
        return True


class ExactSnapshots(SnapshotWriter):
    """All that a checkpoint has, of the same ticks in all stages."""

    def __init__(self, folder: SnapshotFolder, me: Membership, built: Assembly, tick: int) -> None:
        """Keep them from `tick` on."""
        super().__init__(folder, me, built, Copies(me))
        self._next = (tick // self._every + 1) * self._every

    def is_due_after(self, tick: int) -> bool:
        """Whether one is due after this tick."""
        return tick + 1 >= self._next

    def keep_last(self, tick: int) -> None:
        """Wait until all is written."""
        self.wait()

    def _keep(self, tick: int) -> None:
        self.wait()  # all stages must have those of the same ticks
        self._built.ports.settle(tick - 1)
        self._keep_in_background(tick, checkpoint.copy_state(self._built, tick, whole=True))


class HealSnapshots(SnapshotWriter):
    """The stage's own state, at any tick."""

    def __init__(self, folder: SnapshotFolder, me: Membership, built: Assembly, tick: int) -> None:
        """Keep them from `tick` on, one at once."""
        super().__init__(folder, me, built, None if _has_replica_elsewhere(me) else Copies(me))
        # the stage goes on from what it kept last: should that be needed again, what follows will be lost
        self._folder.move(self._own(tick, last=True).name, self._own(tick, last=False).name)
        self._next = tick + self._every
        self._keep(tick)

    def is_due_after(self, tick: int) -> bool:
        """Never of the same tick in all stages."""
        return False

    def keep_last(self, tick: int) -> None:
        """Keep the state before `tick`.

        A GPU may be stuck in work that waits for a lost neighbour: then the weights are those of the last update.
        """
        self.wait()
        built, own = self._built, self._own(tick, last=True)
        if built.stream.drained(_DRAINING):
            built.stage.finish_update()
            self._write(own, checkpoint.copy_own(built))
            return
        with built.stream.aside():
            self._write(own, checkpoint.copy_own(built))

    def _keep(self, tick: int) -> None:
        """None is kept while the last one is still being written."""
        if self._writing is None or not self._writing.is_alive():
            self._keep_in_background(tick, checkpoint.copy_own(self._built))


def mapped(file: Path) -> Tensor:
    """A snapshot's bytes, uint8, as long as it is used."""
    return torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8)


def _has_replica_elsewhere(me: Membership) -> bool:
    """Whether a replica of the stage on another host has its state anyway."""
    return any(me.replica(other).stage_member(me.stage).host != me.own.host for other in range(me.replicas))
