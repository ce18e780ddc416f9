"""The names of snapshots."""

import pytest

from common.messages.snapshot import Snapshot


@pytest.mark.parametrize(
    ("snapshot", "name"),
    [(Snapshot(7, False, 1, 12), "stage12-1"), (Snapshot(7, True, 0, 3), "stage3-0-last")],
)
def test_a_snapshot_is_found_by_its_name(snapshot: Snapshot, name: str) -> None:
    assert snapshot.name == name
    assert Snapshot.named(name, 7) == snapshot


def test_other_files_are_no_snapshots_of_stages() -> None:
    assert Snapshot.named("coordinator", 7) is None
