"""A stage's snapshots: the stage that loads one equals the one that kept it."""

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest
import torch
from torch import nn

from common.config.settings import Config, Data, Optimiser, Recovery, Rule
from common.messages.snapshot import Kept, Snapshot
from common.models.temporal import TemporalShift
from common.rule.packet import Packet
from common.rule.stage import Stage
from stage_worker.assembly import Assembly
from stage_worker.snapshots import Snapshots
from stage_worker.stage_stream import StageStream
from tests.support.members import stage
from tests.support.waiting import wait_until

ROWS = 3


class Ports:
    """Those of a single stage, on which nothing is in flight."""

    inputs = gradients_in = outputs = gradients_out = None
    skips_in = skips_out = skip_gradients_in = skip_gradients_out = ()

    def __init__(self) -> None:
        self.settled: list[int] = []

    def settle(self, tick: int) -> None:
        self.settled.append(tick)


class Stream(StageStream):
    """That of a stage alone on a CPU. `stuck`: as on a GPU that waits for a neighbour that is lost."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"), alone=True)
        self.stuck = False

    def drained(self, seconds: float) -> bool:
        return not self.stuck


def assembly(seed: int, every: int = 2, mode: Literal["exact", "heal"] = "heal") -> Assembly:
    """A stage that remembers, with an average of its weights."""
    torch.manual_seed(seed)
    blocks = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), TemporalShift(0.5, 1), nn.Flatten(), nn.Linear(64, 5))
    optimiser = Optimiser(name="Adam", lr=0.05, ema=0.9)
    recovery = Recovery(mode=mode, snapshot_every=3)
    config = Config(
        stages=1, ticks=99, data=Data(train="."), rule=Rule(every=every), optimiser=optimiser, recovery=recovery
    )
    parts = {"ports": Ports(), "targets": None, "number": 0, "replicas": None, "stream": Stream()}
    return cast(Assembly, SimpleNamespace(stage=Stage(blocks, 0, config), **parts))


def tick(built: Assembly, number: int, update: bool = True) -> None:
    packet = Packet((ROWS, 4, 4, 4))
    packet.set_header(number - 1, number)
    packet.clips[:], packet.labels[:] = [1, 2, 3], [0, 3, 4]
    packet.tensor.copy_(torch.randn(packet.tensor.shape, generator=torch.Generator().manual_seed(number)))
    built.stage.forward(packet)
    built.stage.backward_from_loss(packet, None)
    if update:
        built.stage.update()


def same(one: Assembly, other: Assembly) -> bool:
    def everything(built: Assembly) -> dict[str, torch.Tensor]:
        return {**built.stage.state(), **built.stage.memories.state()}

    mine, theirs = everything(one), everything(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_last_snapshot_restores_the_whole_stage(tmp_path: Path) -> None:
    built, other = assembly(1), assembly(2)
    snapshots = Snapshots(tmp_path, stage(4, 5))
    for number in range(5):  # in the middle of two gradients for one update
        tick(built, number)
    snapshots.begin(built, 5).keep_last(5)
    found = Snapshots(tmp_path, stage(4, 5))
    assert Snapshot(5, True, 0, 4) in found.kept().snapshots
    assert not same(built, other)
    found.load(other, Snapshot(5, True, 0, 4), 8)
    assert same(built, other)
    assert other.stage.updater.ticks == 8  # for the learning rate
    assert other.stage.updater.accumulated == 1
    tick(built, 5)
    tick(other, 5)
    assert same(built, other)


def test_a_replica_does_not_take_over_the_memory_of_another(tmp_path: Path) -> None:
    built, other = assembly(1), assembly(2)
    tick(built, 0)
    snapshots = Snapshots(tmp_path, stage(1, 2).arranged(2))
    snapshots.begin(built, 1).keep_last(1)
    assert built.stage.memories.state()
    first = Snapshots(tmp_path, stage(0, 2).arranged(2))
    assert Snapshot(1, True, 1, 0) in first.kept().snapshots
    first.load(other, Snapshot(1, True, 1, 0), 1)
    assert all(torch.equal(value, other.stage.state()[name]) for name, value in built.stage.state().items())
    assert not other.stage.memories.state()


def test_a_replica_keeps_its_own_memory_if_it_kept_it_at_the_same_tick(tmp_path: Path) -> None:
    first, second, again = assembly(1), assembly(1), assembly(2)
    tick(first, 0)
    tick(second, 1)
    ours = Snapshots(tmp_path, stage(0, 2).arranged(2))
    ours.begin(first, 1).keep_last(1)
    Snapshots(tmp_path, stage(1, 2).arranged(2)).begin(second, 1).keep_last(1)
    ours.load(again, Snapshot(1, True, 1, 0), 1)
    mine, theirs = (each.stage.memories.state() for each in (first, second))
    assert all(torch.equal(value, mine[name]) for name, value in again.stage.memories.state().items())
    assert not all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert all(torch.equal(value, again.stage.state()[name]) for name, value in second.stage.state().items())


def test_a_regular_snapshot_replaces_the_last_one_of_the_attempt_before(tmp_path: Path) -> None:
    built, snapshots = assembly(1), Snapshots(tmp_path, stage())
    snapshots.begin(built, 0).keep_last(7)
    again = Snapshots(tmp_path, stage())
    writer = again.begin(built, 9)
    writer.wait()  # while it writes, none is kept
    assert again.kept() == Kept([Snapshot(9, False, 0, 0)], [])
    for number in (9, 10, 11):
        writer.ticked(number)
    wait_until(lambda: again.kept() == Kept([Snapshot(12, False, 0, 0)], []))


def test_what_was_kept_last_is_a_regular_snapshot_once_the_run_goes_on(tmp_path: Path) -> None:
    """Or the next loss would be told as one without any loss, if no other could be kept since."""
    built, snapshots = assembly(1), Snapshots(tmp_path, stage())
    snapshots.begin(built, 0).keep_last(7)
    writer = Snapshots(tmp_path, stage()).begin(built, 7)
    assert not list(tmp_path.glob("*-last.*"))
    writer.wait()
    assert snapshots.kept() == Kept([Snapshot(7, False, 0, 0)], [])


def test_nothing_of_a_snapshot_stays_mapped_once_it_is_loaded(tmp_path: Path) -> None:
    built, other = assembly(1, every=1), assembly(2, every=1)
    tick(built, 0)
    snapshots = Snapshots(tmp_path, stage())
    snapshots.begin(built, 1).keep_last(1)
    snapshots.load(other, Snapshot(1, True, 0, 0), 1)
    assert same(built, other)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_without_memory_the_run_goes_on_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built, snapshots = assembly(1), Snapshots(tmp_path / "gone", stage(2, 3))
    (tmp_path / "gone").rmdir()
    snapshots.begin(built, 3)
    wait_until(lambda: "stage 2, tick 3: no snapshot could be kept in" in capsys.readouterr().err)


def test_an_interrupted_update_is_applied_before_the_state_is_kept() -> None:
    built, straight = assembly(1, every=1), assembly(1, every=1)
    tick(built, 0, update=False)  # the peer was lost as the gradient was to be sent
    built.stage.finish_update()
    built.stage.finish_update()
    tick(straight, 0)
    assert same(built, straight)
    built.stage.finish_update()
    assert same(built, straight)


def test_a_host_keeps_what_others_send_until_the_run_ends(tmp_path: Path) -> None:
    own, other = Snapshots(tmp_path / "own", stage(0, 2)), Snapshots(tmp_path / "other", stage(1, 2))
    built, again = assembly(1), assembly(2)
    own.begin(built, 3)
    wait_until(lambda: own.kept().snapshots)
    source = Snapshot(3, False, 0, 0)
    other.keep_copy("stage9-0", 3, own.read(source), keep=1)
    other.keep_copy("coordinator", 3, torch.tensor(list(b"{}"), dtype=torch.uint8), keep=1)
    assert other.kept() == Kept([Snapshot(3, False, 0, 9)], ["{}"])
    other.load(again, Snapshot(3, False, 0, 9), 3)
    assert same(built, again)
    other.forget_after(2)
    assert other.kept() == Kept([], [])
    other.keep_copy("stage9-0", 3, own.read(source), keep=1)
    other.leave()
    other.keep_copy("stage9-0", 6, own.read(source), keep=1)  # it came too late
    assert not (tmp_path / "other").exists()


def test_exact_snapshots_are_of_the_same_ticks_in_all_stages_and_hold_all(tmp_path: Path) -> None:
    built, other = assembly(1, mode="exact"), assembly(2, mode="exact")
    snapshots = Snapshots(tmp_path, stage())
    writer = snapshots.begin(built, 4)
    ended = []
    for number in range(4, 40):
        tick(built, number)
        ended.append(writer.is_due_after(number))
        writer.ticked(number)
    assert [number for number, end in zip(range(4, 40), ended, strict=True) if end] == list(range(5, 40, 3))
    assert cast(Ports, built.ports).settled == list(range(5, 40, 3))
    writer.keep_last(40)  # keeps none, but waits until all are written
    kept = built.stage.config.snapshots_kept
    assert kept == 3 + 16 // 3
    assert snapshots.kept().snapshots == [Snapshot(at, False, 0, 0) for at in range(39 - 3 * (kept - 1), 40, 3)]
    snapshots.load(other, Snapshot(39, False, 0, 0), 39)
    tick(other, 39)
    assert same(built, other)


def test_a_stage_whose_gpu_is_stuck_keeps_the_weights_of_its_last_update(tmp_path: Path) -> None:
    built, other = assembly(1, every=1), assembly(1, every=1)
    for number in range(4):
        tick(built, number, update=number < 3)
        if number < 3:
            tick(other, number)
    cast(Stream, built.stream).stuck = True
    snapshots = Snapshots(tmp_path, stage(4, 5))
    snapshots.begin(built, 4).keep_last(4)
    found = assembly(2, every=1)
    Snapshots(tmp_path, stage(4, 5)).load(found, Snapshot(4, True, 0, 4), 5)
    trained, kept = other.stage.blocks.state_dict(), found.stage.blocks.state_dict()
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
