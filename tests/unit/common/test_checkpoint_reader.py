"""Reading untrusted checkpoints."""

import pickle
from pathlib import Path

from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, position


def test_an_index_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    part = checkpoints.begin(10)
    (part / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    checkpoints.commit(part, position(10))
    found, _, refused = checkpoints.newest(SHAPES)
    assert found is None
    assert "which no index needs" in refused[0]
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "checkpoints/0000000010/.metadata").read_bytes())  # unguarded unpickling does run it
    assert (tmp_path / "ran").exists()


def test_an_attribute_of_anything_but_the_indexs_enumeration_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    part = checkpoints.begin(10)
    (part / ".metadata").write_bytes(b"cbuiltins\ngetattr\n(ctorch\nSize\nV__class__\ntR.")
    checkpoints.commit(part, position(10))
    _, _, refused = checkpoints.newest(SHAPES)
    assert "asks for an attribute of" in refused[0]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)
