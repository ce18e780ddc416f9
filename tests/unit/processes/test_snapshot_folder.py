"""The folder in memory where the processes of a run keep their state."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.processes import snapshot_folder
from common.processes.snapshot_folder import SNAPSHOTS, SnapshotFolder, folder_of, make_folder, remove_folder


def write(text: str) -> Callable[[Path], None]:
    def to(path: Path) -> None:
        path.write_text(text)

    return to


def test_only_the_newest_snapshot_of_a_process_is_kept(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "here")
    for tick in (5, 100, 20):  # also one that is older: a diverged training goes back
        folder.write("stage1-0", tick, write(str(tick)))
    folder.write("stage10-0", 3, write("3"))
    assert folder.ticks("stage1-0") == [20]
    assert folder.file("stage1-0", 20).read_text() == "20"
    assert folder.ticks("stage10-0") == [3]
    folder.forget("stage1-0")
    assert folder.ticks("stage1-0") == []
    assert SnapshotFolder(tmp_path / "here").ticks("stage10-0") == [3]
    folder.write("stage1-0", 7, write("7"))
    folder.leave("stage1-0", here={"stage10-0"})
    assert folder.ticks("stage10-0") == [3]  # another process may still be writing
    folder.leave("stage10-0")
    assert not folder.path.exists()


def test_several_of_a_process_can_be_kept_and_later_ones_forgotten(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    for tick in range(10, 80, 10):
        folder.write("a", tick, write(str(tick)), keep=5)
    assert folder.ticks("a") == [30, 40, 50, 60, 70]
    folder.forget_after(40)
    assert folder.ticks("a") == [30, 40]
    folder.forget("a", 40)
    assert folder.ticks("a") == [30]


def test_the_newest_of_one_name_replaces_all_of_another(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path)
    for tick in (10, 20):
        folder.write("a", tick, write(f"a{tick}"), keep=5)
        folder.write("b", tick + 1, write("b"), keep=5)
    folder.move("a", "b")
    assert folder.all() == [("b", 20)]
    assert folder.file("b", 20).read_text() == "a20"
    folder.move("a", "b")  # there is none any more
    assert folder.all() == [("b", 20)]


def test_copies_of_other_hosts_are_removed_by_whoever_leaves(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "here")
    for name in ("own", "beside", "elsewhere"):
        folder.write(name, 1, write(name))
        folder.path.joinpath(f"{name}.part").touch()  # it was killed while it wrote, or received a copy
    folder.leave("own", here={"own", "beside"})
    assert sorted(path.name for path in folder.path.iterdir()) == ["beside.1", "beside.part"]


def test_a_failed_write_leaves_the_last_snapshot(tmp_path: Path) -> None:
    folder = SnapshotFolder(tmp_path / "here")
    folder.write("a", 1, write("one"))

    def fails(path: Path) -> None:
        path.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.write("a", 2, fails)
    assert [path.name for path in folder.path.iterdir()] == ["a.1"]


def test_a_folder_that_another_user_could_have_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="belongs to another user"):
        SnapshotFolder(tmp_path / "link")
    with pytest.raises(ConfigError, match=r"cannot keep snapshots in .*: No such file or directory"):
        SnapshotFolder(tmp_path / "no/where")
    assert SnapshotFolder(tmp_path / "own").path.stat().st_mode & 0o777 == 0o700


def test_the_launchers_folder_comes_before_that_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(snapshot_folder, "_MEMORY", tmp_path)
    monkeypatch.setenv(SNAPSHOTS, "")
    one, other = tmp_path / "runs/a", tmp_path / "runs/b"
    assert folder_of(one).parent == tmp_path
    assert folder_of(one) != folder_of(other)
    made = make_folder()
    assert folder_of(one) == made
    assert made.parent == tmp_path
    remove_folder()
    assert not made.exists()


def test_a_launcher_removes_the_folders_of_which_nobody_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(snapshot_folder, "_MEMORY", tmp_path)
    monkeypatch.setenv(SNAPSHOTS, "")
    code = (
        "import pathlib, sys; from common.processes import snapshot_folder; "
        "snapshot_folder._MEMORY = pathlib.Path(sys.argv[1]); print(snapshot_folder.make_folder())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    left = Path(done.stdout.strip())
    (left / "stage0.7").write_bytes(b"state")
    (tmp_path / "sideways-other").mkdir()  # no lock: not a launcher's
    own, other = make_folder(), make_folder()
    assert not left.exists()
    assert own.exists()
    assert other.exists()
    assert (tmp_path / "sideways-other").exists()
