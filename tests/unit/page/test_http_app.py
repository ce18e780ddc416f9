"""The page's answers: the figures that were told, to those who mean this host, and nothing that changes anything."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.config.run_file import parse
from common.config.settings import Config, Report
from common.errors import ConfigError
from common.partition.balance import BlockCost
from common.rule.schedule import Schedule
from coordinator.page.curves import Series
from coordinator.page.http_app import _STATIC, ADDRESS, PageServer
from coordinator.page.state import PageState

NUMBERS = {"sideways_training": 1.0, 'sideways_frames_total{phase="training"}': 12.0, "sideways_loss": float("nan")}


def config_of(**changes: Any) -> Config:
    tree: dict[str, Any] = {"stages": 3, "ticks": 100, "data": {"train": ".", "slots": 4}}
    return parse({**tree, **changes}, "test")


def progress(stage: int, tick: int, **more: float | None) -> dict[str, Any]:
    times = {"tick_ms": 10.0, "compute_ms": 6.0, "receive_wait_ms": 2.0, "send_wait_ms": 1.0, "data_wait_ms": 0.5}
    return {"kind": "progress", "stage": stage, "tick": tick, **times, "peak_memory_mib": 9.0, **more}


class Served:
    """A page on a port, and its run directory."""

    def __init__(self, run: Path, config: Config, resumed: Path | None = None) -> None:
        self.page_server = PageServer(config.report, resumed)
        self.warnings = ["beware"]
        self.page = PageState(config, run, 100, self.page_server, self.warnings)
        self.url = self.page_server.open(self.page.answer, "10.1.2.3", run)
        self.port = int(self.url.rsplit(":", 1)[1].rstrip("/"))

    def ask(self, path: str, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/api/state")[2])

    def close(self) -> None:
        self.page_server._server.shutdown()
        self.page_server._server.server_close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path, config_of())
    yield found
    found.close()


def test_the_state_is_what_was_told(served: Served, tmp_path: Path) -> None:
    early = served.state()
    assert (early["status"]["state"], early["pipeline"]["tick"], early["ticks_per_second"]) == ("starting", -1, None)
    assert [stage["frame"] for stage in early["pipeline"]["stages"]] == [None] * 3
    page = served.page
    page.split([BlockCost(name, 1.0, 1.0, 1) for name in "abcd"], [1, 2, 1])
    page.running(0, lambda: NUMBERS)
    page.state("running", "", 0)
    for stage in range(3):
        page.line(progress(stage, 41), tick=42, loss=0.5, accuracy=float("nan"))
    page.line(progress(2, 45, loss=0.25, accuracy=0.75, gradient_norm=3.5))
    page.line(progress(2, 46, loss=None))
    page.line({"kind": "evaluation", "tick": 46, "val_top1": 0.625}, evaluation={"val_top1": 0.625})
    page.line({"kind": "restart", "tick": 40, "restarts": 1, "recovery_seconds": 4.5})
    page.line({"kind": "set", "tick": 40, "optimiser.lr": 1.0})
    served.warnings.append("again")
    told = served.state()
    status = told.pop("status")
    assert (status["name"], status["state"], status["tick"], status["planned"]) == (tmp_path.name, "running", 42, 100)
    assert (status["loss"], status["accuracy"], status["evaluation"]) == (0.5, None, {"val_top1": 0.625})
    assert [stage["stage"] for stage in status["stages"]] == [0, 1, 2]
    assert status["stages"][2]["gradient_norm"] == 3.5
    pipeline = told.pop("pipeline")
    assert [stage.pop("blocks") for stage in pipeline["stages"]] == [["a"], ["b", "c"], ["d"]]
    assert pipeline == {"tick": 41, "origin": 0, "stages": [
        {"frame": 41, "gradient": 37, "mismatch": 4},
        {"frame": 40, "gradient": 38, "mismatch": 2},
        {"frame": 39, "gradient": 39, "mismatch": 0},
    ]}  # fmt: skip
    assert told == {
        "slots": 4,
        "ticks_per_second": 100.0,
        "frames_per_second": 400.0,
        "numbers": {**NUMBERS, "sideways_loss": None},
        "curves": {"loss": [[45, 0.25]], "accuracy": [[45, 0.75]], "val_top1": [[46, 0.625]], "val_mse": []},
        "restarts": [{"kind": "restart", "tick": 40, "restarts": 1, "recovery_seconds": 4.5}],
        "warnings": ["beware", "again"],
    }


@pytest.mark.parametrize("algorithm", ["sideways", "backprop"])
def test_frames_are_the_schedules_also_after_a_pipeline_began_anew(tmp_path: Path, algorithm: str) -> None:
    page = PageState(config_of(algorithm=algorithm), tmp_path, 100, PageServer(Report(), None), [])
    page.running(20, dict)
    schedule = Schedule(3)
    for done in range(18, 30):
        page.state("running", "", done)
        stages = json.loads(page.answer())["pipeline"]["stages"]
        for number, stage in enumerate(stages):
            rows = [schedule.frame(number, done - 21), schedule.gradient(number, done - 21)]
            if algorithm == "backprop":
                rows = [done - 21 if done > 20 else None] * 2
            assert [stage["frame"], stage["gradient"]] == [None if row is None else row + 20 for row in rows]


def test_only_those_who_mean_this_host_get_in_and_nobody_changes_anything(served: Served) -> None:
    for host in ("127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:9", "192.168.0.7", socket.gethostname()):
        assert served.ask("/api/state", host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[", "localhost.evil.example"):
        for path in ("/", "/page.js", "/api/state"):
            status, _, body = served.ask(path, host=host)
            assert (status, b"digits" in body or b"status" in body) == (403, False)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        status, headers, _ = served.ask("/api/state", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
    for path in ("/../page.py", "/..%2fpage.py", "/static/page.js", "/index.html", "/api"):
        assert served.ask(path)[0] == 404
    status, headers, body = served.ask("/", "HEAD")
    assert (status, body, int(headers["Content-Length"]) > 1000) == (200, b"", True)


def test_every_answer_forbids_what_comes_from_elsewhere(served: Served) -> None:
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/state", "/nothing"):
        _, headers, _ = served.ask(path)
        policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {*policy.values()} == {"'none'", "'self'"}
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
    kinds = {path: served.ask(path)[1]["Content-Type"].split(";")[0] for path in ("/", "/chart.js", "/page.css")}
    assert kinds == {"/": "text/html", "/chart.js": "text/javascript", "/page.css": "text/css"}
    for file in _STATIC.iterdir():
        assert not re.search(r"(?:src|href|url|from|import)\W{1,3}(?:https?:)?//", file.read_text())


def test_a_port_in_use_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"port {port}: Address already in use\. Set report\.page_port"
        ) as caught:
            PageServer(Report(page_port=port), None)
        assert caught.value.code == 2
        (tmp_path / ADDRESS).write_text(f"http://127.0.0.1:{port}/\n")
        PageServer(Report(), tmp_path)._server.server_close()  # another one will do
    with pytest.raises(ConfigError, match=r"at 203\.0\.113\.9"):
        PageServer(Report(page_host="203.0.113.9"), None)


def test_an_attempt_after_this_one_is_at_the_same_address(tmp_path: Path) -> None:
    first = Served(tmp_path, config_of())
    for tick in (3, 6):
        first.page.line(progress(2, tick, loss=0.5))
    first.page.close("failed", "a stage is gone", 7)
    assert first.state()["status"]["message"] == "a stage is gone"
    first.close()
    lines = [progress(2, 3, loss=0.5), {"kind": "restart", "tick": 2, "restarts": 1, "recovery_seconds": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = Served(tmp_path, config_of(), resumed=tmp_path)
    assert second.url == first.url
    second.page.resumed(4)
    second.page.line(progress(2, 9, loss=0.25))
    told = second.state()
    assert told["curves"]["loss"] == [[3, 0.5], [9, 0.25]]
    assert [restart["restarts"] for restart in told["restarts"]] == [1]
    second.page.close("finished", "", 9)
    second.close()
    assert not (tmp_path / ADDRESS).exists()


def test_a_crowd_is_not_served(served: Served) -> None:
    with ExitStack() as dawdlers:
        for _ in range(16):
            dawdlers.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10)).send(b"GET /api")

        def crowd() -> None:
            for _ in range(20):  # those just accepted may not have been counted yet
                served.state()

        with pytest.raises((OSError, http.client.HTTPException)):
            crowd()


def test_a_curve_stays_short_and_true() -> None:
    for count in (0, 1, 7, 8, 9, 63, 1000):
        curve = Series(8)
        for tick in range(count):
            curve.add(tick, float(tick))
            points = curve.points()
            assert len(points) <= 8
            assert points[-1][0] == tick
            assert points == sorted(points)
        points = curve.points()
        assert len(points) >= min(count, 4)
        starts = [0, *(tick + 1 for tick, _ in points)][: len(points)]
        for (tick, value), start in zip(points, starts, strict=True):
            assert value == pytest.approx((start + tick) / 2)  # the mean of all since the point before
