"""A running page server, and metrics lines for it."""

import http.client
import json
from pathlib import Path
from typing import Any

from common.config.run_file import parse
from common.config.settings import Config
from coordinator.page.http_app import PageServer
from coordinator.page.state import PageState


def config_of(**changes: Any) -> Config:
    tree: dict[str, Any] = {"stages": 3, "ticks": 100, "data": {"train": ".", "slots": 4}}
    return parse({**tree, **changes}, "test")


class Served:
    """A page server on a port, with a run directory."""

    def __init__(self, run: Path, config: Config, resumed: Path | None = None) -> None:
        self.page_server = PageServer(config.report, resumed)
        self.warnings = ["beware"]
        self.page = PageState(config, run, 100, self.page_server, self.warnings)
        self.url = self.page_server.open(self.page.answer, self.page.frames, "10.1.2.3", run)
        self.port = int(self.url.rsplit(":", 1)[1].rstrip("/"))

    def ask(
        self, path: str, method: str = "GET", host: str | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        result = answer.status, answer.headers, answer.read()
        connection.close()
        return result

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/api/state")[2])

    def close(self) -> None:
        self.page_server._server.close()


def progress(stage: int, tick: int, **more: float | None) -> dict[str, Any]:
    times = {"tick_ms": 10.0, "compute_ms": 6.0, "receive_wait_ms": 2.0, "send_wait_ms": 1.0, "data_wait_ms": 0.5}
    return {"kind": "progress", "stage": stage, "tick": tick, **times, "peak_memory_mib": 9.0, **more}
