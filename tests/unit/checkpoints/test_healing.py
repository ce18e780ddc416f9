"""What a run goes on from, given what its processes kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.snapshot import Kept, Snapshot
from common.messages.stage_rpc import Stages
from coordinator.checkpoints.healing import Healing, common_snapshot, deliver, heal
from coordinator.checkpoints.position import Position
from coordinator.checkpoints.resume import StartPoint
from tests.support.settings import settings

SPLIT = [3, 5]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(settings(tmp_path, split=SPLIT, recovery__mode="heal", recovery__restarts=1), "test")


def position(config: Config, tick: int) -> Position:
    return Position.of(config, tick, 0, [(4, 2)], "abc", 7.5)


def last(tick: int, stage: int, replica: int = 0) -> Snapshot:
    return Snapshot(tick, True, replica, stage)


def regular(tick: int, stage: int, replica: int = 0) -> Snapshot:
    return Snapshot(tick, False, replica, stage)


def healed(
    config: Config, ticks: list[int], hosts: list[list[Snapshot]], start: StartPoint, clips: str = "abc"
) -> tuple[StartPoint, Healing] | None:
    positions = [position(config, tick) for tick in ticks]
    return heal([Kept(found, []) for found in hosts], positions, start, config, SPLIT, clips)


CHECKPOINT = StartPoint(tick=50, origin=0, folder=Path("checkpoint"), same_split=True, in_flight=True, scored=True)


def test_a_lost_stage_goes_back_to_its_snapshot_and_the_others_to_where_they_were(config: Config) -> None:
    host = [regular(100, 0), last(127, 0), regular(100, 1)]
    found = healed(config, [131], [host, host], CHECKPOINT)
    assert found is not None
    start, healing = found
    assert (start.tick, start.origin, start.in_flight, start.scored, start.seconds) == (131, 131, False, False, 7.5)
    assert start.places == [(4, 2)]
    assert (start.folder, start.saved_tick) == (CHECKPOINT.folder, 0)
    assert healing.sources == [last(127, 0), regular(100, 1)]
    assert healing.lost == {1: 31}
    assert str(healing) == "healed: the training goes on at tick 131; stage 1 lost the updates of 31 ticks at most"


def test_after_the_loss_of_the_coordinator_no_update_is_lost(config: Config) -> None:
    found = healed(config, [90, 100], [[last(127, 0)], [last(126, 1)]], CHECKPOINT)
    assert found is not None
    assert (found[0].tick, found[1].lost) == (127, {})
    assert str(found[1]) == "healed: the training goes on at tick 127; no stage lost any update"


def test_a_position_older_than_the_checkpoint_does_not_take_the_clips_back(config: Config) -> None:
    """The coordinator was lost long after it had kept one, and without the time to keep another."""
    newer = replace(CHECKPOINT, places=[(9, 1)], seconds=30.0)
    found = healed(config, [10], [[last(127, 0)], [last(126, 1)]], newer)
    assert found is not None
    assert (found[0].tick, found[0].places, found[0].seconds) == (127, [(9, 1)], 30.0)


def test_a_snapshot_of_the_tick_with_which_the_run_goes_on_has_lost_nothing(config: Config) -> None:
    """A stage that loses a peer where a phase ends may have kept one just before."""
    found = healed(config, [121], [[last(149, 0)], [regular(150, 1), last(149, 1)]], CHECKPOINT)
    assert found is not None
    assert (found[0].tick, found[1].lost) == (150, {})


def test_a_lost_replica_takes_the_state_of_a_living_one(config: Config) -> None:
    host = [regular(100, 0, 0), last(126, 0, 0), regular(100, 0, 1), last(127, 1, 0), last(128, 1, 1)]
    found = healed(config, [131], [host], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [last(126, 0, 0), last(128, 1, 1)]
    assert found[1].lost == {}


def test_a_lost_host_heals_from_the_copy_on_another(config: Config) -> None:
    first = [last(127, 0), regular(100, 1)]
    found = healed(config, [131], [first, []], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [last(127, 0), regular(100, 1)]
    calls: list[tuple[Any, ...]] = []

    def call(worker: int, what: Any, *arguments: Any) -> torch.Tensor:
        calls.append((worker, what.__name__, *arguments))
        return DATA

    deliver(cast(Stages, SimpleNamespace(call=call)), [Kept(first, []), Kept([], [])], found[1].sources, keep=1)
    assert calls == [(0, "read_snapshot", regular(100, 1)), (1, "keep_copy", "stage1-0", 100, DATA, 1)]


DATA = torch.zeros(3, dtype=torch.uint8)


def test_a_stage_without_a_snapshot_takes_the_checkpoint(config: Config) -> None:
    found = healed(config, [131], [[regular(100, 1), last(40, 0)]], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [None, regular(100, 1)]
    assert found[1].lost == {0: 81, 1: 31}


def test_a_stage_that_stopped_at_the_checkpoints_tick_has_lost_nothing(config: Config) -> None:
    found = healed(config, [52], [[regular(50, 0), last(50, 0), last(51, 1)]], CHECKPOINT)
    assert found is not None
    assert found[1].sources == [last(50, 0), last(51, 1)]
    assert found[1].lost == {}


def test_nothing_is_healed_without_a_newer_position(config: Config) -> None:
    everything = [[last(127, 0)], [last(126, 1)]]
    assert healed(config, [], everything, CHECKPOINT) is None
    assert healed(config, [50], [[regular(40, 0), regular(50, 1)]], CHECKPOINT) is None
    other = config.model_copy(update={"split": [4, 4]})
    assert heal([Kept(everything[0], [])], [position(other, 131)], CHECKPOINT, config, SPLIT, "abc") is None


def test_other_clips_begin_at_their_start(config: Config) -> None:
    found = healed(config, [131], [[last(127, 0)], [last(126, 1)]], CHECKPOINT, clips="others")
    assert found is not None
    assert found[0].places is None


def in_common(
    config: Config, ticks: list[int], hosts: list[list[Snapshot]]
) -> tuple[StartPoint, list[Snapshot]] | None:
    positions = [position(config, tick) for tick in ticks]
    return common_snapshot([Kept(found, []) for found in hosts], positions, CHECKPOINT, config, SPLIT, "abc")


def test_exactly_all_go_back_to_the_newest_tick_of_which_all_is_there(config: Config) -> None:
    first = [regular(60, 0), regular(80, 0), regular(100, 0), last(111, 0), regular(100, 1)]
    second = [regular(60, 1), regular(80, 1), last(112, 1)]
    found = in_common(config, [20, 40, 60, 80, 120], [first, second])
    assert found is not None
    start, sources = found
    assert sources == [regular(80, 0), regular(80, 1)]
    assert (start.tick, start.origin, start.places, start.folder) == (80, 0, [(4, 2)], None)
    assert (start.seconds, start.saved_tick) == (7.5, 0)
    assert (start.same_split, start.in_flight, start.optimiser, start.scored) == (True, True, True, False)
    assert str(start).startswith("resumed from what all processes kept in memory at tick 80, with the activations")


def test_exactly_each_replica_goes_back_to_its_own(config: Config) -> None:
    config = config.model_copy(update={"replicas": 2})
    host = [regular(80, stage, replica) for stage in range(2) for replica in range(2)]
    found = in_common(config, [80], [host])
    assert found is not None
    assert found[1] == [regular(80, 0, 0), regular(80, 1, 0), regular(80, 0, 1), regular(80, 1, 1)]
    assert in_common(config, [80], [host[1:]]) is None


def test_what_is_older_than_the_checkpoint_or_does_not_fit_is_not_used(config: Config) -> None:
    host = [regular(tick, stage) for tick in (40, 80) for stage in range(2)]
    assert in_common(config, [40], [host]) is None
    other = position(config.model_copy(update={"split": [4, 4]}), 80)
    assert common_snapshot([Kept(host, [])], [other], CHECKPOINT, config, SPLIT, "abc") is None
    assert common_snapshot([Kept(host, [])], [position(config, 80)], CHECKPOINT, config, SPLIT, "others") is None
