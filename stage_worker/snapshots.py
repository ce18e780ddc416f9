"""Snapshots of stages in memory, from which they go on when a process of the run is lost.

    stageI-R.TICK         the state of stage I, replica R, before TICK
    stageI-R-last.TICK    the one that it kept as it lost a peer

While a stage trains, snapshot_writer.py keeps them. With recovery.mode = "exact" the next attempt goes on from the
newest tick of which all stages have one. With "heal" each stage goes on from the newest of its own: one that was not
lost has lost nothing. Copies of those of other hosts' processes are kept here, too.
"""

import threading
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from common.messages.snapshot import COORDINATOR, Kept, Snapshot
from common.processes.membership import Membership
from common.processes.snapshot_folder import SnapshotFolder
from stage_worker import checkpoint
from stage_worker.assembly import Assembly
from stage_worker.snapshot_writer import ExactSnapshots, HealSnapshots, SnapshotWriter, mapped


class Snapshots:
    """The snapshots on this host, used by one stage."""

    def __init__(self, folder: Path, me: Membership) -> None:
        """`folder` on this host. Raises ConfigError if it cannot be used."""
        self._folder, self._me = SnapshotFolder(folder), me
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
        return mapped(self._folder.file(source.name, source.tick))

    def keep_copy(self, name: str, tick: int, data: Tensor, keep: int) -> None:
        """Keep a snapshot of another host's process; for any thread. Raises OSError."""
        with self._others:
            if not self._has_left:
                self._folder.write(name, tick, lambda path: data.numpy().tofile(path), keep)

    def forget(self, name: str, tick: int | None = None) -> None:
        """Forget the snapshots of a process, or only that of one tick."""
        self._folder.forget(name, tick)

    def forget_after(self, tick: int) -> None:
        """Forget all snapshots of later ticks: the run goes on from an earlier one."""
        self._folder.forget_after(tick)

    def load(self, built: Assembly, source: Snapshot, tick: int) -> None:
        """Restore the stage from a snapshot, to go on at `tick`. Raises OSError, or RuntimeError if it does not fit."""
        state = load_file(self._folder.file(source.name, source.tick))
        if not built.stage.config.recovery.heals:
            checkpoint.load_whole(built, state, tick)
            return
        checkpoint.load_own(built, state, tick)
        own = replace(source, replica=self._me.of_replica)  # what a replica remembers is of its own clips
        if (file := self._folder.file(own.name, own.tick)).exists():
            checkpoint.load_memories(built, load_file(file))

    def begin(self, built: Assembly, tick: int) -> SnapshotWriter:
        """Keep those of the stage, from `tick` on."""
        kind = HealSnapshots if built.stage.config.recovery.heals else ExactSnapshots
        return kind(self._folder, self._me, built, tick)

    def leave(self) -> None:
        """The run ends: remove what this stage keeps."""
        me = self._me
        here = {name for own in me.local_stages for name in _names(*own)}
        here |= {COORDINATOR} if me.on_coordinator_host else set()
        with self._others:
            self._has_left = True
            self._folder.leave(*_names(me.of_replica, me.stage), here=here)


def _names(replica: int, stage: int) -> list[str]:
    return [Snapshot(0, last, replica, stage).name for last in (False, True)]
