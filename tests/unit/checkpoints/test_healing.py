"""What a run goes on from, given what its processes kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from common.config.run_file import parse
from common.config.settings import Config
from common.messages.snapshot import Kept, Snapshot
from common.messages.stage_rpc import Stages
from coordinator.checkpoints.healing import Healing, deliver, heal
from coordinator.checkpoints.resume import StartPoint
from coordinator.checkpoints.store import Position
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
    assert start.folder == CHECKPOINT.folder
    assert healing.sources == [last(127, 0), regular(100, 1)]
    assert healing.lost == {1: 31}
    assert str(healing) == "healed: the training goes on at tick 131; stage 1 lost the updates of 31 ticks at most"


def test_after_the_loss_of_the_coordinator_no_update_is_lost(config: Config) -> None:
    found = healed(config, [90, 100], [[last(127, 0)], [last(126, 1)]], CHECKPOINT)
    assert found is not None
    assert (found[0].tick, found[1].lost) == (127, {})
    assert str(found[1]) == "healed: the training goes on at tick 127; no stage lost any update"


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
