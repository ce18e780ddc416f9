"""A run's status as it is shown outside the run: in Redis, and on the page."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from common.config.settings import Config
from common.run_registry.records import Owner, StageStatus, State, Status, finite, plain


class RunStatus:
    """A run's status, written by the training's thread and read by another. Attributes: owner."""

    def __init__(self, config: Config, run: Path, total_ticks: int) -> None:
        """`run`: its directory; `total_ticks`: ticks of the whole training."""
        self.owner = Owner(host=plain(socket.gethostname()), directory=plain(str(run.resolve())), pid=os.getpid())
        self._started = time.time()
        self._now: dict[str, Any] = {
            "algorithm": config.algorithm,
            "planned": total_ticks,
            "tick": 0,
            "state": "starting",
        }
        self._stages: dict[int, dict[str, Any]] = {}

    def line(self, line: dict[str, Any], **status: Any) -> None:
        """Update it with a line of metrics.jsonl, and the fields of Status that the line changes."""
        if line["kind"] == "progress":
            known = self._stages.get(line["stage"], {})
            self._stages[line["stage"]] = known | {name: value for name, value in line.items() if value is not None}
        self._now |= {name: finite(value) for name, value in status.items()}

    def state(self, state: State, message: str, tick: int) -> None:
        """Set the run's state, message and tick."""
        self._now |= {"state": state, "message": plain(message), "tick": tick}

    def status(self, name: str, dropped: int = 0) -> Status:
        """The status now. `name`: the run's; `dropped`: number of lines dropped before they were published."""
        stages = [StageStatus(**_of_stage(line)) for _, line in sorted(self._stages.copy().items())]
        own = {"name": plain(name), "owner": self.owner, "started": self._started, "updated": time.time()}
        return Status(**own, **self._now.copy(), dropped=dropped, stages=stages)


def _of_stage(line: dict[str, Any]) -> dict[str, Any]:
    return {name: finite(line[name]) for name in StageStatus.model_fields if name in line}
