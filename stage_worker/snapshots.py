"""Snapshots of a stage's state in memory, from which the stage goes on when a process of the run is lost.

A stage keeps one every n ticks, written in the background. With recovery.mode = "exact" it has all that a checkpoint
has, and all stages keep those of the same ticks, a few of them: the next attempt goes on from the newest that all have.
With "heal" it lacks what is in flight, and a stage keeps one more when it loses a peer. The next attempt's stage then
goes on from it: a stage that was not lost has lost nothing.

    stageI-R.TICK         the state of stage I, replica R, before TICK
    stageI-R-last.TICK    the one that it kept as it lost a peer

Where the run has several hosts, a copy of each is left on another one.
"""

import threading
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import first_line
from common.messages.snapshot import COORDINATOR, Kept, Snapshot
from common.messages.snapshot_copies import Copies
from common.processes.membership import Membership
from common.processes.output import print_error
from common.processes.snapshot_folder import SnapshotFolder
from stage_worker import checkpoint
from stage_worker.assembly import Assembly

_DRAINING = 5.0  # seconds; the launcher kills after 30


class Snapshots:
    """The snapshots of one stage."""

    def __init__(self, folder: Path, me: Membership) -> None:
        """`folder` on this host. Raises ConfigError if it cannot be used."""
        self._folder, self._me = SnapshotFolder(folder), me
        self._copies: Copies | None = None
        self._built: Assembly | None = None
        self._writing: threading.Thread | None = None
        self._every = self._next = 0
        self._heals, self._kept = True, 1
        self._others, self._has_left = threading.Lock(), False  # copies come in other threads

    def kept(self) -> Kept:
        """What is there, of any process."""
        every = self._folder.all()
        stages = [snapshot for name, tick in every if (snapshot := Snapshot.named(name, tick))]
        files = [self._folder.file(name, tick) for name, tick in every if name == COORDINATOR]
        positions = [file.read_text(errors="replace") for file in files]  # the coordinator checks them
        return Kept(stages, positions)

    def read(self, source: Snapshot) -> Tensor:
        """A snapshot, uint8; its file is mapped."""
        path = self._folder.file(source.name, source.tick)
        return torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)

    def keep_copy(self, name: str, tick: int, data: Tensor, keep: int) -> None:
        """Keep a snapshot of another host's process; for any thread. Raises OSError."""
        with self._others:
            if not self._has_left:
                self._folder.write(name, tick, lambda path: data.numpy().tofile(path), keep)

    def forget(self, name: str) -> None:
        """Forget the snapshots of a process."""
        self._folder.forget(name)

    def forget_after(self, tick: int) -> None:
        """Forget all snapshots of later ticks: the run goes on from an earlier one."""
        self._folder.forget_after(tick)

    def load(self, built: Assembly, source: Snapshot, tick: int) -> None:
        """Restore the stage from a snapshot, to go on at `tick`. Raises OSError, or RuntimeError if it does not fit."""
        state = load_file(self._folder.file(source.name, source.tick))
        if built.stage.config.recovery.heals:
            checkpoint.load_own(built, state, tick, memories=source.replica == self._me.of_replica)
        else:
            checkpoint.load_whole(built, state, tick)

    def begin(self, built: Assembly, tick: int) -> None:
        """Keep snapshots from now on: when healing one now, else at the same ticks as all other stages."""
        self._built, self._heals = built, built.stage.config.recovery.heals
        self._every, self._kept = built.stage.config.recovery.snapshot_ticks, built.stage.config.snapshots_kept
        self._next = tick if self._heals else (tick // self._every + 1) * self._every
        self._copies = None if self._heals and _has_replica_elsewhere(self._me) else Copies(self._me)
        if self._heals:
            self._keep(tick)

    def is_due_after(self, tick: int) -> bool:
        """Whether an exact snapshot is due after this tick."""
        return tick + 1 >= self._next and not self._heals

    def ticked(self, tick: int) -> None:
        """A tick has ended: keep a snapshot if one is due."""
        if tick + 1 >= self._next:
            self._keep(tick + 1)

    def _keep(self, tick: int) -> None:
        """Copy the state before `tick`, and write it in the background.

        When healing, none is kept while the last one is still being written.
        """
        assert self._built is not None
        self._next = tick + self._every
        if self._writing is not None and not self._heals:
            self._writing.join()  # all stages must have those of the same ticks
        if self._writing is None or not self._writing.is_alive():
            state = self._copy(self._built, tick)
            self._writing = threading.Thread(target=self._replace, args=(tick, state), name="snapshot", daemon=True)
            self._writing.start()

    def _copy(self, built: Assembly, tick: int) -> dict[str, Tensor]:
        if self._heals:
            return checkpoint.copy_own(built)
        built.ports.settle(tick - 1)
        return checkpoint.copy_state(built, tick, whole=True)

    def keep_last(self, tick: int) -> None:
        """The process ends: when healing, keep the state before `tick`. Returns once all is written.

        A GPU may be stuck in work that waits for a lost neighbour: then the weights are those of the last update.
        """
        built = self._built
        if built is None:
            return
        if self._writing is not None:
            self._writing.join()
        if self._heals and built.stream.drained(_DRAINING):
            built.stage.finish_update()
            self._write(self._own(tick, last=True), checkpoint.copy_own(built))
        elif self._heals:
            with built.stream.aside():
                self._write(self._own(tick, last=True), checkpoint.copy_own(built))

    def leave(self) -> None:
        """The run ends: remove what this stage keeps."""
        if self._writing is not None:
            self._writing.join()
        me = self._me
        here = {name for own in me.local_stages for name in _names(*own)}
        here |= {COORDINATOR} if me.on_coordinator_host else set()
        with self._others:
            self._has_left = True
            self._folder.leave(*_names(me.of_replica, me.stage), here=here)

    def _replace(self, tick: int, state: dict[str, Tensor]) -> None:
        """Keep a snapshot in place of older ones, also of the last one of an earlier attempt."""
        own = self._own(tick, last=False)
        if self._write(own, state):
            self._folder.forget(self._own(tick, last=True).name)
            if self._copies is not None:
                self._copies.send(own.name, tick, self.read(own), self._kept)

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


def _names(replica: int, stage: int) -> list[str]:
    return [Snapshot(0, last, replica, stage).name for last in (False, True)]


def _has_replica_elsewhere(me: Membership) -> bool:
    """Whether a replica of the stage on another host has its state anyway."""
    return any(me.replica(other).stage_member(me.stage).host != me.own.host for other in range(me.replicas))
