"""The coordinator's position in memory, on its own host and on another."""

from pathlib import Path
from typing import Any, cast

import pytest

from common.config.run_file import parse
from common.config.running import Recovery
from common.config.settings import Config
from common.messages.snapshot import Kept
from common.messages.snapshot_copies import Copies
from common.processes.snapshot_folder import SNAPSHOTS
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.run_snapshots import RunSnapshots
from tests.support.reports import progress
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
def snapshots(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: OtherHost) -> RunSnapshots:
    monkeypatch.setenv(SNAPSHOTS, str(tmp_path / "snapshots"))
    return RunSnapshots(tmp_path, config, cast(Copies, other))


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
    again = RunSnapshots(tmp_path, config, cast(Copies, other))
    assert again.positions([]) == [position(config, 7)]
    again.forget_after(6)
    assert again.positions([]) == []
    assert again.positions([Kept([], []), Kept([], ["damaged", *other.texts])]) == [position(config, 7)]


def test_a_damaged_position_is_left_out(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 7))
    snapshots.path.joinpath("coordinator.9").write_bytes(b"\xff{")
    assert snapshots.positions([]) == [position(config, 7)]


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


def test_exact_positions_are_those_of_the_stages_ticks_and_kept_once_they_have_reported(
    snapshots: RunSnapshots, config: Config, tmp_path: Path, other: OtherHost
) -> None:
    recovery = Recovery(snapshot_every=30)
    exact = RunSnapshots(tmp_path, config.model_copy(update={"recovery": recovery}), cast(Copies, other))
    assert [tick for tick in range(1, 100) if exact.due(tick)] == [30, 60, 90]
    for tick in (30, 60, 90):
        exact.keep(position(config, tick))
    exact.keep_last(position(config, 91))
    exact.reported(progress(stage=0, tick=95))
    exact.reported(progress(stage=1, tick=58))
    assert [found.tick for found in exact.positions([])] == [30]
    exact.reported(progress(stage=1, tick=59))
    assert [found.tick for found in exact.positions([])] == [30, 60]
    snapshots.keep_last(position(config, 71))
    assert snapshots.positions([])[-1] == position(config, 71)
