"""The checkpoint store: which checkpoints it keeps and which it refuses."""

import json
import os
from pathlib import Path

import pytest

from common.config.run_file import parse
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, keep, position


def ticks(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for tick, score in ((10, 0.2), (20, 0.9), (30, None), (40, 0.5), (50, None)):
        keep(checkpoints, position(tick, score))
    assert ticks(tmp_path) == [20, 40, 50]
    keep(checkpoints, position(60, -1.0))
    keep(checkpoints, position(70, 0.95))
    assert ticks(tmp_path) == [60, 70]


def test_writing_a_tick_again_keeps_the_existing_checkpoint(tmp_path: Path) -> None:
    """A checkpoint is requested twice at one tick."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = keep(checkpoints, position(10, 0.5))
    folder = first.stat().st_ino
    assert keep(checkpoints, position(10)).stat().st_ino == folder
    assert ticks(tmp_path) == [10]
    path, found, _ = checkpoints.newest(SHAPES)
    assert (path, found and found.score) == (first, 0.5)


def test_a_refused_checkpoint_is_replaced(tmp_path: Path) -> None:
    (keep(Checkpoints(tmp_path, keep=1), position(10)) / "position.json").write_text("{")
    later = Checkpoints(tmp_path, keep=1)
    keep(later, position(10))
    assert later.newest(SHAPES)[0] is not None


class KilledError(BaseException):
    """Stands for kill -9: nothing more is done, not even in a finally."""


@pytest.mark.parametrize("moment", range(2))
def test_a_checkpoint_that_is_to_be_replaced_is_on_disk_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """By one of a later attempt, which is killed at one of the two renames; no other checkpoint is left."""
    first = keep(Checkpoints(tmp_path, keep=1), position(10, 0.5))
    later, renamed, real = Checkpoints(tmp_path, keep=1), list[Path](), os.replace

    def rename(source: Path, target: Path) -> None:
        if source.is_dir():  # not a file of the checkpoint
            if len(renamed) >= moment:
                raise KilledError
            renamed.append(source)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        with pytest.raises(KilledError):
            keep(later, position(10))
    assert len(renamed) == moment
    again = Checkpoints(tmp_path, keep=1)
    found, kept, _ = again.newest(SHAPES)
    assert (found, kept and kept.score) == (first, 0.5)
    keep(again, position(10))
    assert ticks(tmp_path) == [10]  # nothing else is left
    found, kept, _ = again.newest(SHAPES)
    assert (found, kept and kept.score) == (first, None)
    (tmp_path / "checkpoints/0000000010.old").mkdir()  # the process was killed just after the second
    assert Checkpoints(tmp_path, keep=1).newest(SHAPES)[0] == first
    assert ticks(tmp_path) == [10]


def test_a_checkpoint_that_cannot_be_replaced_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keep(Checkpoints(tmp_path, keep=1), position(10, 0.5))
    later, real = Checkpoints(tmp_path, keep=1), os.replace

    def rename(source: Path, target: Path) -> None:
        if source.name.endswith(".part") and source.is_dir():
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        with pytest.raises(OSError, match="No space"):
            keep(later, position(10))
    assert later.newest(SHAPES)[0] == first


def test_a_score_may_be_a_negated_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for tick, mse in ((10, 0.5), (20, 0.1), (30, 0.4)):
        keep(checkpoints, position(tick, -mse))
    assert ticks(tmp_path) == [20, 30]


def test_the_newest_checkpoint_is_found_with_its_position(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    assert checkpoints.newest(SHAPES) == (None, None, [])
    keep(checkpoints, position(10))
    path = keep(checkpoints, position(20, 0.25))
    found, found_position, refused = checkpoints.newest(SHAPES)
    assert found == path
    assert refused == []
    assert found_position is not None
    assert (found_position.tick, found_position.places, found_position.score) == (20, [(0, 5)], 0.25)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "position.json").unlink(), "position.json cannot be read"),
        (lambda path: (path / "position.json").write_text("[1]"), "position.json cannot be read"),
        (lambda path: (path / "position.json").write_text('{"format": 99}'), "another version of Sideways"),
        (lambda path: (path / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
        (lambda path: (path / "__0_0.distcp").write_bytes(b"x"), "is truncated: it has 1 of"),
        (lambda path: _flip(path / "__0_0.distcp"), "its checksum does not match"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_is_used(
    tmp_path: Path, damage: object, message: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    good, bad = keep(checkpoints, position(10)), keep(checkpoints, position(20))
    damage(bad)  # type: ignore[operator]
    found, found_position, refused = checkpoints.newest(SHAPES)
    assert found == good
    assert found_position is not None
    assert found_position.tick == 10
    assert len(refused) == 1
    assert message in refused[0]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({**SHAPES, "a.weight": (3, 3)}, "a.weight is [2, 3] there and [3, 3] here"),
        ({"a.weight": (2, 3)}, "a.steps is [] there and missing here"),
        ({**SHAPES, "b": (1,)}, "b is missing there and [1] here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    keep(checkpoints, position(10))
    found, _, refused = checkpoints.newest(shapes)
    assert found is None
    assert message in refused[0]


def test_a_file_name_outside_the_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    path = keep(checkpoints, position(10))
    tree = json.loads((path / "position.json").read_text())
    tree["files"]["../../etc"] = [1, "x"]
    (path / "position.json").write_text(json.dumps(tree))
    found, _, refused = checkpoints.newest(SHAPES)
    assert found is None
    assert "is missing" in refused[0]


def test_packets_in_flight_are_restored_only_into_the_same_pipeline() -> None:
    data = {"train": ".", "slots": 1, "size": 8}
    config = parse({"stages": 2, "ticks": 1, "data": data}, "test")
    assert position(1).fits(config, [1, 1])
    assert not position(1).fits(config, [2, 1])
    assert not position(1, algorithm="gpipe").fits(config, [1, 1])
    assert not position(1, frame_shape=[2, 3, 8, 8]).fits(config, [1, 1])
    assert not position(1, wire="int8").fits(config, [1, 1])
    assert not position(1, edge_ticks=[2]).fits(config, [1, 1])


def test_refused_newer_checkpoints_do_not_prune_good_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    keep(checkpoints, position(60))
    for tick in (80, 100):
        (keep(checkpoints, position(tick)) / "__0_0.distcp").write_bytes(b"")
    again = Checkpoints(tmp_path, keep=2)
    keep(again, position(60))  # it was pruned above, before the newer ones were damaged
    again.set_aside_after(60)
    for tick in (65, 70):
        keep(again, position(tick))
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*[0-9]")) == ["0000000065", "0000000070"]
    assert len(list((tmp_path / "checkpoints").glob("*.refused"))) == 2


def test_a_score_can_be_added_later(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    keep(checkpoints, position(10))
    checkpoints.set_score(10, 0.5)
    checkpoints.set_score(99, 0.7)  # there is no such checkpoint
    keep(checkpoints, position(20))
    assert ticks(tmp_path) == [10, 20]
    found, _, refused = checkpoints.newest(SHAPES)
    assert found is not None
    assert refused == []
    keep(checkpoints, position(30))
    checkpoints.set_score(30, 0.6)
    assert ticks(tmp_path) == [30]


@pytest.mark.parametrize("fields", [{"files": [1]}, {"places": "x"}, {"tick": "many"}, {"unknown": 1}])
def test_a_malformed_position_is_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    path = keep(checkpoints, position(10))
    tree = json.loads((path / "position.json").read_text())
    (path / "position.json").write_text(json.dumps({**tree, **fields}))
    found, _, refused = checkpoints.newest(SHAPES)
    assert (found is None) == (fields != {"unknown": 1})
    assert all("position.json cannot be read" in reason for reason in refused)


def test_scores_of_another_figure_are_not_compared(tmp_path: Path) -> None:
    """After a resume with another checkpoint.best."""
    checkpoints = Checkpoints(tmp_path, keep=1, figure="val_top1")
    keep(checkpoints, position(10))
    checkpoints.set_score(10, 0.9)
    later = Checkpoints(tmp_path, keep=1, figure="-val_mse")
    keep(later, position(20))
    later.set_score(20, -4.0)
    keep(later, position(30))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["0000000020", "0000000030"]
