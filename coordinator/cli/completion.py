"""Shell completion (`sideways --install-completion`) of run names."""

from contextlib import suppress
from pathlib import Path

import typer

from common.errors import SidewaysError


def run_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the runs in the folder of runs and in the Redis of REDIS_URL, if that answers."""
    from common.run_registry.records import STATUS

    here = [file.parent.name for file in Path(context.params.get("runs") or "runs").glob(f"*/{STATUS}")]
    return sorted({name for name in [*here, *_names_in_redis()] if name.startswith(incomplete)})


def _names_in_redis() -> list[str]:
    import redis

    from common.run_registry.redis_connection import from_environment
    from common.run_registry.store import Store

    with suppress(redis.RedisError, OSError, SidewaysError):
        if (access := from_environment()) is not None:
            return Store(access.connect()).names()
    return []
