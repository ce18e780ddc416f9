"""A private Redis."""

from collections.abc import Iterator

import pytest

from common.run_registry.redis_connection import RedisAccess
from coordinator.registry.embedded_redis import EmbeddedRedis


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisAccess]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("server"))
    yield server.access()
    server.close()
