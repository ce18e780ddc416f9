"""The page of a real run in a real browser shows the coordinator's state."""

import json
import re
import shutil
import signal
import time
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from common.config.run_file import parse
from common.config.settings import Config
from common.models import build
from common.rule.pixels import Normaliser
from coordinator.page.http_app import ADDRESS
from tests.support.commands import steer
from tests.support.oracles import inputs_of
from tests.support.processes import Background
from tests.support.settings import settings, write_run_file

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
STAGES = 4
CLASSES = ["ant", "bee", "cat"]
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "window-size=1200,1100"]
FLAGS += ["disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"]

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium-driver"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """Headless Chromium with its own profile. That no process is left behind is checked in tests/conftest.py."""
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
    """A run of four stages that takes days, evaluates regularly and accepts commands."""
    often = {"evaluate_every": 100, "checkpoint__every": 50, "data__val": str(videos / "val"), "report__redis": True}
    slow = {"data__size": 32, "data__slots": 8, "stages": STAGES, "name": "it", "ticks": 10_000_000}
    slow["skips"] = [[0, 2], [0, 3], [1, 3]]
    tree = settings(videos, **often, **slow, report__losses=False, recovery__restarts=1)
    background = Background(write_run_file(tmp_path / "run.toml", tree))
    yield background
    if background.process.poll() is None:
        background.process.kill()


def until(condition: Callable[[], Any], run: Background, seconds: float = 60) -> Any:
    """Wait until `condition` returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, run.output()
        time.sleep(0.1)
    return result


def address_of(run: Background) -> str:
    """The page's address, as the run prints it."""
    return str(until(lambda: re.search(r"watch it at (http://127\.0\.0\.1:\d+/)", run.output()), run)[1])


def answer(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "api/state", timeout=10) as response:
        return json.load(response)


def figures(browser: webdriver.Chrome, selector: str = "body") -> dict[str, str]:
    """The figures that an element shows: their texts by their names."""
    program = "return [...document.querySelectorAll(arguments[0])].map(at => [at.dataset.figure, at.textContent])"
    return dict(browser.execute_script(program, f"{selector} [data-figure]"))


def number(text: str) -> float | None:
    """The number in a text, without its unit; None for a dash."""
    return None if text.startswith("–") else float(text.replace(",", "").split()[0])


def same(shown: str, value: float | None) -> bool:
    """Whether a text shows a value, up to rounding to three digits."""
    return number(shown) == (value if value is None else pytest.approx(value, rel=6e-3, abs=1e-9))


def drawn(browser: webdriver.Chrome, curve: str) -> tuple[int, str]:
    """The number of points of a curve, and the label at its end."""
    program = """const chart = document.querySelector(`[data-curve="${arguments[0]}"]`)
    return [chart.querySelector(".first").points.length, chart.querySelector(".now").textContent]"""
    points, label = browser.execute_script(program, curve)
    return points, label


def compare(browser: webdriver.Chrome, state: dict[str, Any]) -> None:
    """Assert that the page shows `state`, while the run is paused."""
    status, numbers, shown = state["status"], state["numbers"], figures(browser)
    for name in ("name", "state", "message", "algorithm"):
        assert shown[name] == status[name]
    expected = {name: status[name] for name in ("tick", "planned", "loss", "accuracy")}
    expected |= {"score": status["evaluation"]["val_top1"], "learning_rate": status["stages"][-1]["learning_rate"]}
    expected |= {"frames": numbers['sideways_frames_total{phase="training"}']}
    expected |= {name: numbers[f"sideways_{name}_total"] for name in ("checkpoints", "restarts")}
    expected |= {"drawn": state["pipeline"]["tick"]}
    assert {name: shown[name] for name, value in expected.items() if not same(shown[name], value)} == {}
    for stage, (figures_of, holds) in enumerate(zip(status["stages"], state["pipeline"]["stages"], strict=True)):
        compare_stage(browser, f'[data-stage="{stage}"]', figures_of, holds)
    for curve in ("loss", "accuracy"):
        points, label = drawn(browser, curve)
        assert (points, same(label, state["curves"][curve][-1][1])) == (len(state["curves"][curve]), True)


def compare_stage(browser: webdriver.Chrome, box: str, stage: dict[str, Any], holds: dict[str, Any]) -> None:
    shown = figures(browser, box)
    wait = sum(stage[f"{name}_wait_ms"] for name in ("receive", "send", "data"))
    expected = {"tick_ms": stage["tick_ms"], "compute": stage["compute_ms"], "wait": wait}
    expected |= {"gated": 100 * stage["gated_share"], "norm": stage["gradient_norm"], "rate": stage["learning_rate"]}
    expected |= {"memory": stage["peak_memory_mib"], "mismatch": holds["mismatch"]}
    assert {name: shown[name] for name, value in expected.items() if not same(shown[name], value)} == {}
    assert shown["blocks"] == " · ".join(holds["blocks"])
    skips = ", ".join(map(str, holds["skips"]))
    assert shown["skips"] == (f"also takes the output of stage {skips}" if skips else "")
    program = """const box = document.querySelector(arguments[0]);
    return [box.querySelector(".frame").textContent, box.querySelector(".gradient").textContent,
            ...["compute", "between", "data"].map(part => box.querySelector(`.bar .${part}`).style.width)]"""
    frame, gradient, *widths = browser.execute_script(program, box)
    assert [number(text.split()[-1]) for text in (frame, gradient)] == [holds["frame"], holds["gradient"]]
    parts = [stage["compute_ms"], stage["receive_wait_ms"] + stage["send_wait_ms"], stage["data_wait_ms"]]
    for width, part in zip(widths, parts, strict=True):
        assert float(width.rstrip("%")) == pytest.approx(min(100, 100 * part / stage["tick_ms"]), abs=0.1)


@pytest.mark.long
def test_the_page_shows_the_coordinators_state(browser: webdriver.Chrome, run: Background, tmp_path: Path) -> None:
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
    assert "saved" in steer(tmp_path, "checkpoint", "it")  # after that, no checkpoint is being written
    state = answer(url)
    until(lambda: same(figures(browser)["checkpoints"], state["numbers"]["sideways_checkpoints_total"]), run)
    until(lambda: number(figures(browser)["drawn"]) == state["pipeline"]["tick"], run, 10)  # the animation caught up
    compare(browser, state)
    program = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert {name.startswith(url) for name in browser.execute_script(program)} == {True}
    assert browser.get_log("browser") == []  # no error, no violation of the content security policy
    steer(tmp_path, "resume", "it")
    until(lambda: number(figures(browser)["tick"]) > state["status"]["tick"], run)
    run.send(signal.SIGTERM)
    until(lambda: figures(browser)["state"] == "stopped", run)
    assert run.end(60) == 143, run.output()
    until(lambda: "coordinator has ended" in browser.find_element("css selector", "p.gone").text, run)
    assert not (tmp_path / "runs/it" / ADDRESS).exists()


def preview(browser: webdriver.Chrome, run: Background, others: set[int]) -> dict[str, Any]:
    """The preview of the pipeline that the page shows, as it was sent; not one of `others`, which are ticks."""

    def other() -> dict[str, Any] | None:
        shown = browser.execute_script("return window.seen ?? null")
        return shown if shown is not None and shown["tick"] not in others else None

    return until(other, run)


def canvas(browser: webdriver.Chrome, name: str) -> list[int]:
    """The pixels of a picture on the page, red, green, blue and opacity after one another."""
    program = """const at = document.querySelector(`[data-picture="${arguments[0]}"]`);
    return [...at.getContext("2d").getImageData(0, 0, at.width, at.height).data]"""
    return browser.execute_script(program, name)


def shown_pixels(browser: webdriver.Chrome, shown: dict[str, Any]) -> None:
    """Assert that the page's canvases show the pictures of a preview, while the run is paused."""
    for stage, held in enumerate(shown["stages"]):
        for slot, picture in enumerate(held["pictures"]):
            colours = np.array(canvas(browser, f"{slot}-{stage}")).reshape(-1, 4)
            assert colours[:, :3].tobytes() == np.frombuffer(b64decode(picture), np.uint8).astype(int).tobytes()
            assert set(colours[:, 3]) == {255}


def shown_replicas(browser: webdriver.Chrome, replicas: int, readers: int) -> None:
    """Assert that the page shows what each of two stages of each replica is doing, if there are several replicas."""
    state = browser.execute_script("return window.told")
    program = """const rows = [...document.querySelectorAll(".replicas tr")];
    return rows.map(row => [...row.cells].map(cell => cell.innerText))"""
    shown = browser.execute_script(program)
    assert len(state["replicas"]) == replicas
    if replicas == 1:
        assert shown == []
        return
    assert shown[0] == ["", "stage 0", "stage 1"]
    for replica, (row, cells) in enumerate(zip(shown[1:], state["replicas"], strict=True)):
        assert row[0].split("\n") == [f"replica {replica}", f"fed by reader {replica * readers // replicas}"]
        assert [text.split("\n")[0] for text in row[1:]] == [cell["state"] for cell in cells]
        assert {cell["state"] for cell in cells} <= {"busy", "idle", "slow"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "replicas", "readers"), [("classify", 1, 0), ("autoencode", 1, 0), ("classify", 2, 2)]
)
def test_the_page_shows_the_video(
    browser: webdriver.Chrome, videos: Path, tmp_path: Path, task: str, replicas: int, readers: int
) -> None:
    """The frames that the stages of a run with frozen weights hold, and what the top stage says of its own."""
    frozen = {"optimiser": {"name": "SGD", "lr": 0.0, "args": {}}, "task": task, "stages": 2, "report__redis": True}
    tree = settings(videos, **frozen, data__size=32, data__slots=8, ticks=100_000, name="it", report__losses=False)
    if task == "autoencode":
        tree |= {"model": "autoencoder", "model_args": {"width": 4}}
        del tree["split"]
    config = parse(tree, "test")
    tree |= {"replicas": replicas, "data": tree["data"] | {"readers": readers}}
    run = Background(write_run_file(tmp_path / "run.toml", tree))
    try:
        browser.get(address_of(run))
        previews = [preview(browser, run, set())]
        while len(previews) < 5:
            previews.append(preview(browser, run, {shown["tick"] for shown in previews}))
        steer(tmp_path, "pause", "it")
        until(lambda: figures(browser)["state"] == "paused", run)
        time.sleep(1)  # for the last preview to be shown
        previews.append(browser.execute_script("return window.seen"))
        shown_pixels(browser, previews[-1])
        shown_replicas(browser, replicas, readers)
        assert number(figures(browser, ".video")["seen"]) == previews[-1]["tick"]
        assert browser.get_log("browser") == []  # no violation of the content security policy
        run.send(signal.SIGTERM)
        assert run.end(60) == 143, run.output()
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait(30)
    compare_previews(config, previews)


def compare_previews(config: Config, previews: list[dict[str, Any]]) -> None:
    """Assert that the stages held these frames, and that the top stage's answers are those of the model."""
    shape, pixels = Normaliser(*config.data.normalisation), {}
    model, answers = build(config, 3), {}
    played = config.model_copy(update={"ticks": max(shown["tick"] for shown in previews) + 1})
    for tick, (packet, _) in enumerate(inputs_of(played)):
        pixels[tick] = shape.to_pixels(packet.tensor[:4])
        with torch.no_grad():
            answers[tick] = packet.labels[:4].tolist(), model(packet.tensor[:4])
    for shown in previews:
        assert [stage["frame"] for stage in shown["stages"]] == [shown["tick"], shown["tick"] - 1]
        for held in shown["stages"]:
            for row, picture in enumerate(held["pictures"]):
                assert b64decode(picture) == pixels[held["frame"]][row].permute(1, 2, 0).numpy().tobytes()
        labels, y = answers[shown["tick"] - 1]
        given = shape.to_pixels(y) if config.task == "autoencode" else y.softmax(1)
        for row, answer in enumerate(shown["answers"]):
            if config.task == "autoencode":
                output = np.frombuffer(b64decode(answer["output"]), np.uint8).reshape(32, 32, 3).astype(int)
                assert abs(output - given[row].permute(1, 2, 0).numpy()).max() <= 1  # other rows, other rounding
            else:
                assert answer["truth"] == CLASSES[labels[row]]
                assert answer["says"] == CLASSES[int(given[row].argmax())]
                assert answer["confidence"] == pytest.approx(float(given[row].max()), abs=1e-3)


@pytest.mark.long
def test_the_page_comes_back_after_a_restart(browser: webdriver.Chrome, run: Background) -> None:
    """A restart may be over between two questions of the page; that the run is gone, it shows after the last one."""
    import os

    url = address_of(run)
    browser.get(url)
    run.wait_for_tick(200)
    before = answer(url)["curves"]["loss"]
    os.kill(run.members()["coordinator"], signal.SIGKILL)
    until(lambda: figures(browser).get("restarts") == "1" and figures(browser)["state"] == "running", run)
    until(lambda: browser.find_elements("css selector", '[data-list="restarts"] li'), run)
    assert "resumed at tick" in browser.find_element("css selector", '[data-list="restarts"]').text
    assert browser.find_elements("css selector", ".chart .restart")
    state = answer(url)
    kept = [point for point in before if point[0] < state["restarts"][0]["tick"] - 50]
    assert kept
    assert state["curves"]["loss"][: len(kept)] == kept
    os.kill(run.members()["coordinator"], signal.SIGKILL)
    assert run.end(60) not in (0, 143), run.output()
    until(lambda: figures(browser)["state"] == "gone", run)
