from pathlib import Path

import pytest

from coordinator.atomic_file import replacing


def test_a_file_is_replaced_only_once_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("old")
    with replacing(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_stays_as_it_was_if_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(file):
        _ = 1 / 0
    assert file.read_text() == "old"
