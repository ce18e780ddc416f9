"""Records of runs."""

import os
from typing import Any

from common.run_registry.records import (
    Command,
    Owner,
    Status,
)

HERE = Owner(host="here", directory="/runs/it", pid=1)


def status_of(**fields: Any) -> Status:
    known = {"name": "it", "owner": HERE, "state": "running", "algorithm": "sideways", "planned": 100}
    return Status(**{**known, "started": 1.0, "updated": 2.0, "tick": 7, **fields})


def command(do: Any = "pause", lr: float | None = None) -> Command:
    return Command(id=os.urandom(16).hex(), do=do, lr=lr)
