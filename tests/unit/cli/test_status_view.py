"""The output of the status commands."""

import io

import pytest

from common.errors import SidewaysError
from common.run_registry.records import (
    Status,
    decode,
)
from coordinator.cli.status_view import bar, overview, view
from tests.support.records import status_of


def test_a_bar_is_as_long_as_its_width_and_shows_the_shares() -> None:
    from common.run_registry.records import StageStatus

    known = {"stage": 0, "tick": 1, "peak_memory_mib": 1.0}
    times = {"tick_ms": 10.0, "compute_ms": 5.0, "receive_wait_ms": 1.0, "send_wait_ms": 1.0, "data_wait_ms": 2.0}
    assert bar(StageStatus(**known, **times), 20).plain == "█" * 10 + "▒" * 4 + "░" * 4 + "·" * 2
    late = {**times, "compute_ms": 50.0}
    assert bar(StageStatus(**known, **late), 20).plain == "█" * 20
    still = {**times, "tick_ms": 0.0}
    assert len(bar(StageStatus(**known, **still), 20).plain) == 20


def test_names_are_not_interpreted_as_markup() -> None:
    from rich.console import Console

    from coordinator.registry.run_finder import RunInfo

    seen = RunInfo(status_of(name="[red]x[/red]"), "lost")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(overview([seen]), view(seen))
    text = console.export_text()
    assert text.count("[red]x[/red]") == 2
    with pytest.raises(SidewaysError, match="control characters"):
        decode(Status, status_of().encode().replace(b'"it"', b'"\\u001b[2J"'))
