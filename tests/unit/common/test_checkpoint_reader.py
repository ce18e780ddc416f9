"""Reading untrusted checkpoints."""

import pickle
from pathlib import Path

from common.checkpoint_reader import CheckpointReader
from coordinator.checkpoints.store import Checkpoints
from tests.support.checkpoints import SHAPES, keep, position


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


def test_an_index_of_another_version_of_python_is_read(tmp_path: Path) -> None:
    """Python 3.13 writes the module of paths as `pathlib._local`."""
    checkpoints = Checkpoints(tmp_path, keep=5)
    folder = keep(checkpoints, position(10))
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.storage_meta.checkpoint_id = Path("somewhere")
    index = pickle.dumps(metadata, protocol=2).replace(b"cpathlib._local\n", b"cpathlib\n")
    assert index.count(b"cpathlib\nPosixPath\n") == 1
    for module in (b"pathlib", b"pathlib._local"):
        (folder / ".metadata").write_bytes(index.replace(b"cpathlib\n", b"c" + module + b"\n"))
        found = CheckpointReader(folder).read_metadata().storage_meta
        assert found is not None
        assert found.checkpoint_id == Path("somewhere")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)
