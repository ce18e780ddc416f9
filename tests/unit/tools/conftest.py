"""A run with a model, shared by the tests of the tools."""

from pathlib import Path

import pytest

from tests.support.settings import config_of
from tests.support.trained import saved


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("trained"), config_of(videos, data__val=str(videos / "val"), data__stride=2))
