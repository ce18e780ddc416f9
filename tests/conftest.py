"""Fixtures for all tests: small generated videos, and a check that no process is left behind."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support.labels import write_labels
from tests.support.processes import train
from tests.support.settings import slow_run
from tests.support.videos import write_clip

hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What CI needs, whose runs may take 90 minutes however slow the machine is."""
    parser.addoption("--start-within", type=float, metavar="SECONDS", help="skip the tests not started by then")


@pytest.fixture(autouse=True, scope="session")
def _start() -> float:
    """When the first test began."""
    return time.monotonic()


@pytest.fixture(autouse=True)
def _in_time(request: pytest.FixtureRequest, _start: float) -> None:
    """Skip the test if it is too late to start it."""
    most = request.config.getoption("--start-within")
    if most is not None and time.monotonic() > _start + most:
        pytest.skip(f"not started within {most:.0f} s")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Results must equal those of workers with one thread each, bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    """Fail if a test leaves a process running: a child of this process, or a process of a run that lost its parent."""
    before = _ours()
    yield
    end = time.monotonic() + 5
    while (left := _ours() - before) and time.monotonic() < end:
        time.sleep(0.1)
    described = {pid: _command(pid) for pid in left}
    for pid in left:
        with suppress(psutil.Error):
            psutil.Process(pid).kill()
    assert not left, f"processes left behind: {described}"


def _ours() -> set[int]:
    """Children of this process, and processes of this test session's runs that have lost their parent."""
    pids = {child.pid for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        mine = os.environ["SIDEWAYS_TEST"] == _environment(process.info["pid"])
        if mine and any(ours in command for ours in ("stage_worker", "coordinator", "redis-server", "chromium")):
            pids.add(process.info["pid"])
    return pids - {os.getpid()}


def _environment(pid: int) -> str:
    try:
        return psutil.Process(pid).environ().get("SIDEWAYS_TEST", "")
    except psutil.Error:
        return ""


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "?"


os.environ["SIDEWAYS_TEST"] = f"pytest-{os.getpid()}"  # inherited by all processes that the tests start


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, train and val, each with three classes of clips of 5 to 40 frames; and files of labels."""
    root = tmp_path_factory.mktemp("videos")
    lengths = iter([5, 17, 31, 8, 23, 40, 12, 9, 26])
    for label, name in enumerate(("ant", "bee", "cat")):
        for number in range(3):
            write_clip(root / "train" / name / f"{number}.mp4", next(lengths), seed=10 * label + number)
        for number in range(2):
            write_clip(root / "val" / name / f"{number}.mp4", 7 + 6 * number + label, seed=100 + 10 * label + number)
    write_labels(root, sorted(path.relative_to(root / "train").as_posix() for path in root.glob("train/*/*.mp4")))
    return root


@pytest.fixture(scope="session")
def straight(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an undisturbed run of 200 ticks."""
    return train(tmp_path_factory.mktemp("straight"), slow_run(videos))
