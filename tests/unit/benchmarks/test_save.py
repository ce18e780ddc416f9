"""A benchmark's figures are kept with where they come from."""

import json
from pathlib import Path

import pytest

from benchmarks import save
from benchmarks.figures import ABOUT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another repository, of one benchmark, which fails without options."""
    (tmp_path / "benchmarks").mkdir()
    code = "import json, sys\nprint('rate: 2')\nprint(json.dumps({'rate': 2, 'of': sys.argv[1]}))"
    (tmp_path / "benchmarks/it.py").write_text(code)
    monkeypatch.setattr(save, "ROOT", tmp_path)
    return tmp_path


def test_the_last_line_is_saved_with_machine_commit_and_date(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = save.save("other", "it", ["--rounds", "5"], root)
    assert "rate: 2\n" in capfd.readouterr().out, "its output is passed on"
    record = json.loads(file.read_text())
    assert list(record) == ["machine", "commit", "date", "command", "figures"]
    assert set(record) == {*ABOUT, "figures"}
    assert record["figures"] == {"rate": 2, "of": "--rounds"}
    assert record["command"] == "python benchmarks/it.py --rounds 5"
    assert "cores" in record["machine"]


def test_nothing_is_saved_of_a_benchmark_that_fails(root: Path) -> None:
    code = "import sys; print('{}'); sys.exit(3)"
    (root / "benchmarks/it.py").write_text(code)
    with pytest.raises(SystemExit, match="ended with 3: nothing is saved"):
        save.save("it", "it", [], root)
    assert not list(root.glob("*.json"))
