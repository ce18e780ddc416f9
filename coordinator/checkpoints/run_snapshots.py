"""The coordinator's own snapshots in memory: its position, with a copy on another host if there is one."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import torch

from common.config.settings import Config
from common.messages.snapshot import COORDINATOR, Kept
from common.messages.snapshot_copies import Copies
from common.messages.stage_report import Progress
from common.processes.snapshot_folder import SnapshotFolder, folder_of
from coordinator.checkpoints.position import Position

_POSITIONS = 64  # kept in the exact mode: the coordinator may be so many frames ahead, and they are small


class RunSnapshots:
    """The coordinator's positions."""

    def __init__(self, run: Path, config: Config, copies: Copies) -> None:
        """Of a run directory. Raises ConfigError if the folder cannot be used."""
        self._folder, self._every, self._next = SnapshotFolder(folder_of(run)), config.recovery.snapshot_ticks, 0
        self._copies, self._kept = copies, True
        self._exact, self._count = not config.recovery.heals, 1 if config.recovery.heals else _POSITIONS
        self._pending: deque[Position] = deque()
        self._reported = dict.fromkeys(product(range(config.replicas), range(config.stages)), 0)

    @property
    def path(self) -> Path:
        """The folder, also that of the stages on their hosts."""
        return self._folder.path

    def due(self, tick: int) -> bool:
        """Whether a snapshot is due before `tick`: in the exact mode, whether the stages keep one."""
        return tick % self._every == 0 if self._exact else tick >= self._next

    def keep(self, position: Position) -> None:
        """Keep the position: in the exact mode once all stages have reported the ticks before it.

        Without memory for it, an older one is kept.
        """
        self._next = position.tick + self._every
        if self._exact:
            self._pending.append(position)
        else:
            self._write(position)

    def reported(self, report: Progress) -> None:
        """A stage has reported, and the report is on disk."""
        self._reported[report.replica, report.stage] = report.tick + 1
        while self._pending and self._pending[0].tick <= min(self._reported.values()):
            self._write(self._pending.popleft())

    def _write(self, position: Position) -> None:
        if self._kept:
            data = torch.from_numpy(np.frombuffer(position.text.encode(), np.uint8).copy())
            with suppress(OSError):
                self._folder.write(COORDINATOR, position.tick, lambda path: data.numpy().tofile(path), self._count)
            self._copies.send(COORDINATOR, position.tick, data, self._count)

    def keep_last(self, position: Position) -> None:
        """Another attempt follows: keep the position if the run heals, so that it goes on from there."""
        if not self._exact:
            self.keep(position)

    def refuse(self) -> None:
        """Let no later attempt go on from the snapshots: the training has diverged."""
        self._kept = False
        self._folder.forget(COORDINATOR)
        self._copies.forget(COORDINATOR)

    def forget(self, name: str, tick: int) -> None:
        """Forget a snapshot on this host."""
        self._folder.forget(name, tick)

    def forget_after(self, tick: int) -> None:
        """Forget later positions: the run goes on from an earlier one."""
        self._folder.forget_after(tick)

    def positions(self, kept: Sequence[Kept]) -> list[Position]:
        """What an earlier attempt kept, here or on the stages' hosts, from the oldest on."""
        texts = [
            self._folder.file(COORDINATOR, tick).read_text(errors="replace") for tick in self._folder.ticks(COORDINATOR)
        ]
        found: dict[int, Position] = {}
        for text in [*(text for own in kept for text in own.positions), *texts]:
            with suppress(ValueError):
                position = Position.parse(text)
                found[position.tick] = position
        return [found[tick] for tick in sorted(found)]

    def leave(self) -> None:
        """The run ends: remove the position."""
        self._folder.leave(COORDINATOR, here=[name for name, _ in self._folder.all()])
