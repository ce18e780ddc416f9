"""Attempts of a run: the number of this one, and the directory that earlier ones used."""

from pathlib import Path

import pytest

from common.config.run_file import parse
from common.errors import ConfigError, SidewaysError
from coordinator.launch.attempt import LAST, LAUNCH, RESTARTS, RunMarker, deployed, may_be_restarted, restarts


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        LAUNCH,
        RESTARTS,
        LAST,
        *(f"TORCHELASTIC_{name}" for name in ("RESTART_COUNT", "MAX_RESTARTS", "RUN_ID")),
    ):
        monkeypatch.delenv(name, raising=False)


def marker(runs: Path, **settings: int) -> RunMarker:
    return RunMarker(parse({"ticks": 1, "runs": str(runs), "data": {"train": "."}, **settings}, "test"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({RESTARTS: "0", LAST: "0"}, True),
        ({RESTARTS: "5", LAST: "1"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "2"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "2"}, False),
    ],
)
def test_an_attempt_knows_whether_another_follows(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert may_be_restarted() is expected


def test_a_later_attempt_finds_the_run_of_its_own_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "it"
    run.mkdir()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a/b c")
    marker(tmp_path).write(run)
    assert marker(tmp_path).find() is None  # the first attempt of another launch with the same name
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert restarts() == 2
    assert marker(tmp_path).find() == run
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    assert marker(tmp_path).find() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a/b c")
    marker(tmp_path).remove()
    assert marker(tmp_path).find() is None


def test_on_a_full_disk_the_old_marker_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH, "demo")
    (tmp_path / "it").mkdir()
    marker(tmp_path).write(tmp_path / "it")

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SidewaysError, match="Free disk space"):
            marker(tmp_path).write(tmp_path / "other")
    assert marker(tmp_path).find() == tmp_path / "it"


def test_an_empty_marker_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH, "demo")
    (tmp_path / ".launch-demo").touch()
    assert marker(tmp_path).find() is None


def test_a_named_launch_continues_its_run_until_it_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted container does not know that it was restarted."""
    monkeypatch.setenv(LAUNCH, "demo")
    assert marker(tmp_path).find() is None
    (tmp_path / "it").mkdir()
    marker(tmp_path).write(tmp_path / "it")
    assert marker(tmp_path).find() == tmp_path / "it"
    assert deployed()
    monkeypatch.setenv(RESTARTS, "0")  # as set by `sideways train`
    assert not deployed()
    assert marker(tmp_path).find() is None
    monkeypatch.setenv(RESTARTS, "1")
    assert marker(tmp_path).find() == tmp_path / "it"
    (tmp_path / "it").rmdir()
    assert marker(tmp_path).find() is None


def test_a_launch_refuses_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH, "demo")
    (tmp_path / "it").mkdir()
    marker(tmp_path).check()
    marker(tmp_path).write(tmp_path / "it")
    marker(tmp_path).check()
    marker(tmp_path, stages=3).write(tmp_path / "it")  # an attempt that goes on, with what was measured filled in
    marker(tmp_path).check()
    with pytest.raises(ConfigError, match=f"the launch demo belongs to the run {tmp_path}/it, .* other settings"):
        marker(tmp_path, stages=2).check()
    monkeypatch.setenv(RESTARTS, "1")  # `sideways train` restarts its own processes
    marker(tmp_path, stages=2).check()
    monkeypatch.delenv(RESTARTS)
    (tmp_path / ".launch-demo").write_text(str(tmp_path / "it"))  # of an earlier version
    marker(tmp_path, stages=2).check()
