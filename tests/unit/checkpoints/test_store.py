"""Which checkpoints are kept, and which are refused."""

import json
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


def test_one_that_is_there_is_never_gone_for_a_moment(tmp_path: Path) -> None:
    """Asked for twice at one tick."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    first = keep(checkpoints, position(10, 0.5))
    folder = first.stat().st_ino
    assert keep(checkpoints, position(10)).stat().st_ino == folder
    assert ticks(tmp_path) == [10]
    path, found, _ = checkpoints.newest(SHAPES)
    assert (path, found and found.score) == (first, 0.5)


def test_one_that_was_refused_is_replaced(tmp_path: Path) -> None:
    (keep(Checkpoints(tmp_path, keep=1), position(10)) / "position.json").write_text("{")
    later = Checkpoints(tmp_path, keep=1)
    keep(later, position(10))
    assert later.newest(SHAPES)[0] is not None


def test_errors_are_scores_too(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for tick, mse in ((10, 0.5), (20, 0.1), (30, 0.4)):
        keep(checkpoints, position(tick, -mse))
    assert ticks(tmp_path) == [20, 30]


def test_the_newest_is_found_with_its_position(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    assert checkpoints.newest(SHAPES) == (None, None, [])
    keep(checkpoints, position(10))
    path = keep(checkpoints, position(20, 0.25))
    found, where, refused = checkpoints.newest(SHAPES)
    assert found == path
    assert refused == []
    assert where is not None
    assert (where.tick, where.places, where.score) == (20, [(0, 5)], 0.25)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "position.json").unlink(), "position.json cannot be read"),
        (lambda path: (path / "position.json").write_text("[1]"), "position.json cannot be read"),
        (lambda path: (path / "position.json").write_text('{"format": 99}'), "another version of Sideways"),
        (lambda path: (path / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
        (lambda path: (path / "__0_0.distcp").write_bytes(b"x"), "is truncated: it has 1 bytes of"),
        (lambda path: _flip(path / "__0_0.distcp"), "its checksum is not the one it was written with"),
        (lambda path: (path / ".metadata").unlink(), ".metadata is missing"),
    ],
)
def test_a_damaged_one_is_refused_and_the_one_before_is_used(tmp_path: Path, damage: object, said: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    good, bad = keep(checkpoints, position(10)), keep(checkpoints, position(20))
    damage(bad)  # type: ignore[operator]
    found, where, refused = checkpoints.newest(SHAPES)
    assert found == good
    assert where is not None
    assert where.tick == 10
    assert len(refused) == 1
    assert said in refused[0]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({**SHAPES, "a.weight": (3, 3)}, "a.weight is [2, 3] there and [3, 3] here"),
        ({"a.weight": (2, 3)}, "a.steps is [] there and missing here"),
        ({**SHAPES, "b": (1,)}, "b is missing there and [1] here"),
    ],
)
def test_a_foreign_one_is_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    keep(checkpoints, position(10))
    found, _, refused = checkpoints.newest(shapes)
    assert found is None
    assert said in refused[0]


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    path = keep(checkpoints, position(10))
    tree = json.loads((path / "position.json").read_text())
    tree["files"]["../../etc"] = [1, "x"]
    (path / "position.json").write_text(json.dumps(tree))
    found, _, refused = checkpoints.newest(SHAPES)
    assert found is None
    assert "is missing" in refused[0]


def test_what_was_in_flight_fits_only_the_same_pipeline() -> None:
    data = {"train": ".", "slots": 1, "size": 8}
    config = parse({"stages": 2, "ticks": 1, "data": data}, "test")
    assert position(1).fits(config, [1, 1])
    assert not position(1).fits(config, [2, 1])
    assert not position(1, algorithm="gpipe").fits(config, [1, 1])
    assert not position(1, frame_shape=[2, 3, 8, 8]).fits(config, [1, 1])


def test_what_claims_to_be_later_displaces_nothing_good(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    keep(checkpoints, position(60))
    for tick in (80, 100):
        (keep(checkpoints, position(tick)) / "__0_0.distcp").write_bytes(b"")
    again = Checkpoints(tmp_path, keep=2)
    keep(again, position(60))  # pruned above, as if only refused ones were newer
    again.set_aside_after(60)
    for tick in (65, 70):
        keep(again, position(tick))
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*[0-9]")) == ["0000000065", "0000000070"]
    assert len(list((tmp_path / "checkpoints").glob("*.refused"))) == 2


def test_a_score_can_be_noted_later(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    keep(checkpoints, position(10))
    checkpoints.set_score(10, 0.5)
    checkpoints.set_score(99, 0.7)  # of one that could not be kept
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
