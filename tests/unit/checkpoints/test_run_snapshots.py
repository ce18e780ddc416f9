"""The coordinator's position in memory, on its own host and on another."""

from pathlib import Path
from typing import Any, cast

import pytest

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.snapshot import Kept
from common.messages.snapshot_copies import Copies
from common.processes.snapshot_folder import SNAPSHOTS
from coordinator.checkpoints.run_snapshots import RunSnapshots
from coordinator.checkpoints.store import Position
from tests.support.settings import settings


class OtherHost:
    """Stands for the copies."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def send(self, name: str, tick: int, data: Any, keep: int) -> None:
        self.texts = [data.numpy().tobytes().decode()]

    def forget(self, name: str) -> None:
        self.texts = []


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(settings(tmp_path, recovery__mode="heal", recovery__restarts=1), "test")


@pytest.fixture
def other() -> OtherHost:
    return OtherHost()


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: OtherHost) -> RunSnapshots:
    monkeypatch.setenv(SNAPSHOTS, str(tmp_path / "snapshots"))
    return RunSnapshots(tmp_path, 100, cast(Copies, other))


def position(config: Config, tick: int) -> Position:
    return Position.of(config, tick, 0, [(4, 2)], "abc", 7.5)


def test_a_position_is_due_every_so_many_ticks(snapshots: RunSnapshots, config: Config) -> None:
    assert snapshots.due(1)
    snapshots.keep(position(config, 7))
    assert not snapshots.due(106)
    assert snapshots.due(107)


def test_a_position_is_found_here_or_on_another_host(
    snapshots: RunSnapshots, config: Config, other: OtherHost, tmp_path: Path
) -> None:
    snapshots.keep(position(config, 7))
    again = RunSnapshots(tmp_path, 100, cast(Copies, other))
    assert again.positions([]) == [position(config, 7)]
    again.forget_after(6)
    assert again.positions([]) == []
    assert again.positions([Kept([], []), Kept([], ["damaged", *other.texts])]) == [position(config, 7)]


def test_after_a_divergence_there_is_none(snapshots: RunSnapshots, config: Config, other: OtherHost) -> None:
    snapshots.keep(position(config, 131))
    snapshots.refuse()
    snapshots.keep(position(config, 132))  # as the coordinator ends
    assert snapshots.positions([]) == []
    assert other.texts == []


def test_the_last_one_to_leave_removes_the_folder(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 131))
    (snapshots.path / "stage0-0.5").touch()
    snapshots.leave()
    assert [path.name for path in snapshots.path.iterdir()] == ["stage0-0.5"]
