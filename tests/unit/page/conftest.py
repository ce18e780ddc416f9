"""A running page server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.page import Served, config_of


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path, config_of())
    yield found
    found.close()
