"""The page in a real browser, of a real run: what it shows is what the coordinator says."""

import json
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from coordinator.page.http_app import ADDRESS
from tests.support.commands import steer
from tests.support.processes import Background
from tests.support.settings import settings, write_run_file

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
STAGES = 4
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "window-size=1200,1100"]
FLAGS += ["disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"]

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium or no chromedriver here: apt-get install chromium-driver"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with a profile of its own, and nothing of it left afterwards (tests/conftest.py looks)."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def run(videos: Path, tmp_path: Path) -> Iterator[Background]:
    """A run of four stages that would go on for days, evaluates now and then and can be steered."""
    often = {"evaluate_every": 100, "checkpoint__every": 50, "data__val": str(videos / "val"), "report__redis": True}
    slow = {"data__size": 32, "data__slots": 8, "stages": STAGES, "name": "it", "ticks": 10_000_000}
    tree = settings(videos, **often, **slow, report__losses=False, recovery__restarts=1)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    yield background
    if background.process.poll() is None:
        background.process.kill()


def until(what: Callable[[], Any], run: Background, seconds: float = 60) -> Any:
    """What it returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, run.output()
        time.sleep(0.1)
    return found


def address_of(run: Background) -> str:
    """As the run prints it."""
    return str(until(lambda: re.search(r"watch it at (http://127\.0\.0\.1:\d+/)", run.output()), run)[1])


def answer(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "api/state", timeout=10) as found:
        return json.load(found)


def figures(browser: webdriver.Chrome, of: str = "body") -> dict[str, str]:
    """The texts that are shown, by their names."""
    program = "return [...document.querySelectorAll(arguments[0])].map(at => [at.dataset.figure, at.textContent])"
    return dict(browser.execute_script(program, f"{of} [data-figure]"))


def number(text: str) -> float | None:
    """What a text shows, without its unit."""
    return None if text.startswith("–") else float(text.replace(",", "").split()[0])


def same(shown: str, told: float | None) -> bool:
    """Three digits are shown at least."""
    return number(shown) == (told if told is None else pytest.approx(told, rel=6e-3, abs=1e-9))


def drawn(browser: webdriver.Chrome, curve: str) -> tuple[int, str]:
    """Points of the line, and the label at its end."""
    program = """const chart = document.querySelector(`[data-curve="${arguments[0]}"]`)
    return [chart.querySelector(".first").points.length, chart.querySelector(".now").textContent]"""
    points, label = browser.execute_script(program, curve)
    return points, label


def compare(browser: webdriver.Chrome, told: dict[str, Any]) -> None:
    """All that is shown with all that is told, while both stand still."""
    status, numbers, shown = told["status"], told["numbers"], figures(browser)
    for name in ("name", "state", "message", "algorithm"):
        assert shown[name] == status[name]
    expected = {name: status[name] for name in ("tick", "planned", "loss", "accuracy")}
    expected |= {"score": status["evaluation"]["val_top1"], "learning_rate": status["stages"][-1]["learning_rate"]}
    expected |= {"frames": numbers['sideways_frames_total{phase="training"}']}
    expected |= {name: numbers[f"sideways_{name}_total"] for name in ("checkpoints", "restarts")}
    expected |= {"drawn": told["pipeline"]["tick"]}
    assert {name: shown[name] for name, value in expected.items() if not same(shown[name], value)} == {}
    for stage, (told_of, holds) in enumerate(zip(status["stages"], told["pipeline"]["stages"], strict=True)):
        compare_stage(browser, f'[data-stage="{stage}"]', told_of, holds)
    for curve in ("loss", "accuracy"):
        points, label = drawn(browser, curve)
        assert (points, same(label, told["curves"][curve][-1][1])) == (len(told["curves"][curve]), True)


def compare_stage(browser: webdriver.Chrome, box: str, told: dict[str, Any], holds: dict[str, Any]) -> None:
    shown = figures(browser, box)
    wait = sum(told[f"{name}_wait_ms"] for name in ("receive", "send", "data"))
    expected = {"tick_ms": told["tick_ms"], "compute": told["compute_ms"], "wait": wait}
    expected |= {"gated": 100 * told["gated_share"], "norm": told["gradient_norm"], "rate": told["learning_rate"]}
    expected |= {"memory": told["peak_memory_mib"], "mismatch": holds["mismatch"]}
    assert {name: shown[name] for name, value in expected.items() if not same(shown[name], value)} == {}
    assert shown["blocks"] == " · ".join(holds["blocks"])
    program = """const box = document.querySelector(arguments[0]);
    return [box.querySelector(".frame").textContent, box.querySelector(".gradient").textContent,
            ...["compute", "between", "data"].map(part => box.querySelector(`.bar .${part}`).style.width)]"""
    frame, gradient, *widths = browser.execute_script(program, box)
    assert [number(text.split()[-1]) for text in (frame, gradient)] == [holds["frame"], holds["gradient"]]
    shares = [told["compute_ms"], told["receive_wait_ms"] + told["send_wait_ms"], told["data_wait_ms"]]
    for width, share in zip(widths, shares, strict=True):
        assert float(width.rstrip("%")) == pytest.approx(min(100, 100 * share / told["tick_ms"]), abs=0.1)


@pytest.mark.long
def test_the_page_shows_what_the_coordinator_says(browser: webdriver.Chrome, run: Background, tmp_path: Path) -> None:
    url = address_of(run)
    assert (tmp_path / "runs/it" / ADDRESS).read_text().strip() == url
    browser.get(url)
    run.wait_for_tick(150)
    ticks = {until(lambda: number(figures(browser).get("tick", "–")), run)}

    def moved() -> bool:
        ticks.add(number(figures(browser)["tick"]))
        return len(ticks) > 3

    until(moved, run)
    assert "paused" in steer(tmp_path, "pause", "it")
    until(lambda: figures(browser)["state"] == "paused", run)
    assert "kept" in steer(tmp_path, "checkpoint", "it")  # none is under way after that
    told = answer(url)
    until(lambda: same(figures(browser)["checkpoints"], told["numbers"]["sideways_checkpoints_total"]), run)
    until(lambda: number(figures(browser)["drawn"]) == told["pipeline"]["tick"], run, 10)  # the last ticks are played
    compare(browser, told)
    program = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert {name.startswith(url) for name in browser.execute_script(program)} == {True}
    assert browser.get_log("browser") == []  # no error, nothing that the policy forbids
    steer(tmp_path, "resume", "it")
    until(lambda: number(figures(browser)["tick"]) > told["status"]["tick"], run)
    run.send(signal.SIGTERM)
    until(lambda: figures(browser)["state"] == "stopped", run)
    assert run.end(60) == 143, run.output()
    until(lambda: "coordinator has ended" in browser.find_element("css selector", "p.gone").text, run)
    assert not (tmp_path / "runs/it" / ADDRESS).exists()


@pytest.mark.long
def test_the_page_is_there_again_after_a_restart(browser: webdriver.Chrome, run: Background) -> None:
    import os

    url = address_of(run)
    browser.get(url)
    run.wait_for_tick(200)
    before = answer(url)["curves"]["loss"]
    os.kill(run.members()["coordinator"], signal.SIGKILL)
    until(lambda: figures(browser)["state"] == "gone", run)
    until(lambda: figures(browser).get("restarts") == "1" and figures(browser)["state"] == "running", run)
    until(lambda: browser.find_elements("css selector", '[data-list="restarts"] li'), run)
    assert "on from tick" in browser.find_element("css selector", '[data-list="restarts"]').text
    assert browser.find_elements("css selector", ".chart .restart")
    told = answer(url)
    kept = [point for point in before if point[0] < told["restarts"][0]["tick"] - 50]
    assert kept
    assert told["curves"]["loss"][: len(kept)] == kept
    run.send(signal.SIGTERM)
    assert run.end(60) == 143, run.output()
