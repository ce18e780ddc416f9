"""What a run goes on from, given what its processes kept."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.stage_calls import Snapshot
from common.messages.stage_rpc import Stages
from common.processes.snapshot_folder import SNAPSHOTS
from coordinator.checkpoints.healing import Healing, RunSnapshots, heal
from coordinator.checkpoints.resume import StartPoint
from coordinator.checkpoints.store import Position
from tests.support.settings import settings

SPLIT = [3, 5]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(settings(tmp_path, split=SPLIT, recovery__mode="heal", recovery__restarts=1), "test")


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSnapshots:
    monkeypatch.setenv(SNAPSHOTS, str(tmp_path / "snapshots"))
    return RunSnapshots(tmp_path, 100)


def position(config: Config, tick: int) -> Position:
    return Position.of(config, tick, 0, [(4, 2)], "abc", 7.5)


def last(tick: int, replica: int = 0) -> Snapshot:
    return Snapshot(tick, True, replica)


def regular(tick: int, replica: int = 0) -> Snapshot:
    return Snapshot(tick, False, replica)


def healed(
    snapshots: RunSnapshots, config: Config, found: list[list[Snapshot]], start: StartPoint, clips: str = "abc"
) -> tuple[StartPoint, Healing] | None:
    call_all: Callable[..., Any] = lambda call, folder: found  # noqa: E731
    stages = cast(Stages, SimpleNamespace(call_all=call_all, count=2))
    return heal(snapshots, stages, start, config, SPLIT, clips)


CHECKPOINT = StartPoint(tick=50, origin=0, folder=Path("checkpoint"), same_split=True, in_flight=True, scored=True)


def test_a_lost_stage_goes_back_to_its_snapshot_and_the_others_to_where_they_were(
    snapshots: RunSnapshots, config: Config
) -> None:
    snapshots.keep(position(config, 131))
    found = healed(snapshots, config, [[regular(100), last(127)], [regular(100)]], CHECKPOINT)
    assert found is not None
    start, healing = found
    assert (start.tick, start.origin, start.in_flight, start.scored, start.seconds) == (131, 131, False, False, 7.5)
    assert start.places == [(4, 2)]
    assert start.folder == CHECKPOINT.folder
    assert healing.sources == [last(127), regular(100)]
    assert healing.lost == {1: 31}
    assert str(healing) == "healed: the training goes on at tick 131; stage 1 lost the updates of 31 ticks at most"


def test_after_the_loss_of_the_coordinator_no_update_is_lost(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 100))
    found = healed(snapshots, config, [[last(127)], [last(126)]], CHECKPOINT)
    assert found is not None
    assert (found[0].tick, found[1].lost) == (127, {})
    assert str(found[1]) == "healed: the training goes on at tick 127; no stage lost any update"


def test_a_lost_replica_takes_the_state_of_a_living_one(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 131))
    of_first = [regular(100, 0), last(126, 0), regular(100, 1)]
    of_second = [last(127, 0), last(128, 1)]
    found = healed(snapshots, config, [of_first, of_second, of_first, of_second], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [last(126, 0), last(128, 1)]
    assert found[1].lost == {}


def test_a_snapshot_that_one_replica_cannot_read_is_not_used(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 131))
    found = healed(snapshots, config, [[last(127)], [last(126), regular(100)], [], [regular(100)]], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [None, regular(100)]
    assert found[1].lost == {0: 81, 1: 31}


def test_nothing_is_healed_without_a_newer_position(snapshots: RunSnapshots, config: Config) -> None:
    everything = [[last(127)], [last(126)]]
    assert healed(snapshots, config, everything, CHECKPOINT) is None
    snapshots.keep(position(config, 50))
    assert healed(snapshots, config, [[regular(40)], [regular(50)]], CHECKPOINT) is None
    other = config.model_copy(update={"split": [4, 4]})
    snapshots.keep(position(other, 131))
    assert healed(snapshots, config, everything, CHECKPOINT) is None


def test_after_a_divergence_nothing_is_healed(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 131))
    snapshots.refuse()
    snapshots.keep(position(config, 132))  # as the coordinator ends
    assert healed(snapshots, config, [[last(127)], [last(126)]], CHECKPOINT) is None


def test_other_clips_begin_at_their_start(snapshots: RunSnapshots, config: Config) -> None:
    snapshots.keep(position(config, 131))
    found = healed(snapshots, config, [[last(127)], [last(126)]], CHECKPOINT, clips="others")
    assert found is not None
    assert found[0].places is None


def test_a_position_is_due_every_so_many_ticks(snapshots: RunSnapshots, config: Config, tmp_path: Path) -> None:
    assert snapshots.due(1)
    snapshots.keep(position(config, 7))
    assert not snapshots.due(106)
    assert snapshots.due(107)
    assert RunSnapshots(tmp_path, 100).newest() == position(config, 7)
