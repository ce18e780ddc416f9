"""The snapshots in memory by which the coordinator and the stages go on after a loss, and where their copies are."""

import re
from dataclasses import dataclass

COORDINATOR = "coordinator"  # name of its positions in the snapshot folder
_NAME = re.compile(r"stage(\d+)-(\d+)(-last)?")


@dataclass(frozen=True, order=True)
class Snapshot:
    """A stage's state in memory before `tick`, kept by one of its replicas.

    Attributes:
        last: kept as the stage lost a peer, so it has lost nothing.
    """

    tick: int
    last: bool
    replica: int
    stage: int

    @property
    def name(self) -> str:
        """In the snapshot folder."""
        return f"stage{self.stage}-{self.replica}{'-last' * self.last}"

    @staticmethod
    def named(name: str, tick: int) -> "Snapshot | None":
        """The snapshot of this name in the snapshot folder; None if it is not a stage's."""
        found = _NAME.fullmatch(name)
        return Snapshot(tick, bool(found[3]), int(found[2]), int(found[1])) if found else None


@dataclass(frozen=True)
class Kept:
    """What a host keeps in memory of an earlier attempt.

    Attributes:
        snapshots: of stages, also copies of those of other hosts.
        positions: of the coordinator, as text.
    """

    snapshots: list[Snapshot]
    positions: list[str]
