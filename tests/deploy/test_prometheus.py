"""A real Prometheus scrapes a real run: the queries of all panels and alerts return series."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Background, free_ports
from tests.support.settings import settings, write_run_file

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
STAGES = 2

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool: apt-get install prometheus",
)


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], input=given, capture_output=True, timeout=60)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def test_the_alert_rules_are_valid_and_pass_their_own_tests() -> None:
    promtool("check", "rules", DEPLOY / "prometheus/alerts.yml")
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
    promtool("test", "rules", DEPLOY / "prometheus/alerts_test.yml")


def test_discovered_pods_get_the_labels_that_the_dashboards_use(tmp_path: Path) -> None:
    """Relabels simulated targets, as Debian's Prometheus has no discovery for Kubernetes."""
    text = (DEPLOY / "prometheus/kubernetes.yml").read_text()
    discovery, rest = re.split(r"(?=    relabel_configs:)", text)
    head, discovery = re.split(r"(?=    kubernetes_sd_configs:)", discovery)
    assert "role: pod" in discovery
    pods = [pod("coordinator", "0", "meeting"), pod("coordinator", "0", "metrics"), pod("stage", "3", "metrics")]
    (tmp_path / "pods.json").write_text(json.dumps([*pods, pod("stage", "2", "metrics", phase="Succeeded")]))
    (tmp_path / "it.yml").write_text(f"{head}    file_sd_configs: [files: [{tmp_path / 'pods.json'}]]\n{rest}")
    output = promtool("check", "service-discovery", "--timeout", "3s", tmp_path / "it.yml", "sideways")
    found = [target["labels"] for target in json.loads(output) if target["labels"]]
    assert sorted((labels["run"], labels["process"]) for labels in found) == [  # Prometheus keeps no order
        ("ns/demo", "coordinator"),
        ("ns/demo", "worker 3"),
    ]


def pod(component: str, index: str, port: str, phase: str = "Running") -> dict[str, Any]:
    """A port of a pod in deploy/k8s, as Kubernetes' discovery describes it."""
    prefix = "__meta_kubernetes_pod"
    labels = {
        "__meta_kubernetes_namespace": "ns",
        f"{prefix}_container_port_name": port,
        f"{prefix}_phase": phase,
        f"{prefix}_label_app_kubernetes_io_instance": "demo",
        f"{prefix}_label_app_kubernetes_io_component": component,
        f"{prefix}_annotation_batch_kubernetes_io_job_completion_index": index,
    }
    return {"targets": [f"{component}{index}:{port}"], "labels": labels}


def panel_queries() -> dict[str, str]:
    """Queries by dashboard, panel and legend, as Grafana sends them for all runs and stages."""
    queries = {}
    for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "30s").replace("$run", ".*").replace("$stage", ".*")
                queries[f"{path.stem}: {panel['title']}: {target['legendFormat']}"] = query
    return queries


def alert_queries(rules: list[dict[str, Any]]) -> dict[str, str]:
    """The selectors in each alert's expression, as the expression itself returns series only when the alert fires."""
    return {
        f"{rule['name']}: {selector}": selector
        for rule in rules
        for selector in re.findall(r"\b(?:sideways_\w+|up)\b(?:\{[^}]*\})?", rule["query"])
    }


class Prometheus:
    """Prometheus with the project's configuration, but shorter intervals and another folder of runs."""

    def __init__(self, folder: Path, runs: Path, port: int) -> None:
        self.port, self.folder = port, folder
        text = (DEPLOY / "prometheus/prometheus.yml").read_text()
        for old, new in (
            ("../../runs", str(runs)),
            ("interval: 10s", "interval: 1s"),
            ("interval: 5s", "interval: 1s"),
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / "prometheus.yml").write_text(text)
        shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
        self.log = open(folder / "prometheus.log", "wb")  # noqa: SIM115
        command = ["prometheus", "--config.file", str(folder / "prometheus.yml"), "--log.level", "warn"]
        command += ["--storage.tsdb.path", str(folder / "data"), "--web.listen-address", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an API response."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, query: str) -> list[dict[str, Any]]:
        """The series that a query returns now."""
        return list(self.get("query", query=query)["result"])

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def wait_until(condition: Callable[[], bool], seconds: float, run: Background) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.process.poll() is None:
        if condition():
            return True
        time.sleep(0.3)
    return condition()


@pytest.fixture
def watched(videos: Path, tmp_path: Path) -> Iterator[tuple[Background, Prometheus]]:
    """A run of two stages that is scraped every second."""
    often = {"evaluate_every": 200, "checkpoint__every": 100, "probe__every": 50, "report__losses": False}
    first = free_ports(1 + STAGES + 1)  # the last is Prometheus' own
    ports = {"metrics__port": first}
    tree = settings(videos, stages=STAGES, ticks=100_000, name="it", data__val=str(videos / "val"), **often, **ports)
    run = Background(write_run_file(tmp_path / "run.toml", tree))
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "runs", first + 1 + STAGES)
    try:
        yield run, prometheus
    finally:
        prometheus.close()
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait(20)


def test_every_query_of_dashboards_and_alerts_returns_series(watched: tuple[Background, Prometheus]) -> None:
    run, prometheus = watched
    run.wait_for_tick(300)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    queries = panel_queries() | alert_queries(rules)
    assert len(rules) >= 6
    assert len(queries) > 50
    empty = dict(queries)

    def all_found() -> bool:
        for name, query in list(empty.items()):
            if prometheus.series(query):
                del empty[name]
        return not empty

    assert wait_until(all_found, 40, run), f"these find nothing: {empty}\n{run.output()}"
    expected = {"coordinator", "stage 0", "stage 1"}

    def all_up() -> bool:  # a scrape may be late
        up = {series["metric"]["process"] for series in prometheus.series("up == 1")}
        return up == expected and len(prometheus.series('sideways_tick_seconds_count{run="it"} > 200')) == STAGES

    assert wait_until(all_up, 20, run), run.output()
    assert [series["value"][1] for series in prometheus.series('sideways_mismatch_frames{stage="0"}')] == ["2"]
    health = {rule["name"]: rule["health"] for rule in prometheus.get("rules")["groups"][0]["rules"]}
    assert set(health.values()) == {"ok"}
    for number in range(1 + STAGES):
        _lint(prometheus, number)
    _end(run, prometheus)


def _lint(prometheus: Prometheus, number: int) -> None:
    """Check that the metrics of a process follow Prometheus' conventions."""
    target = prometheus.get("targets", state="active")["activeTargets"][number]
    with urllib.request.urlopen(target["scrapeUrl"], timeout=10) as answer:
        promtool("check", "metrics", given=answer.read())


def _end(run: Background, prometheus: Prometheus) -> None:
    """Check that the run's series are gone when it has ended, so that no alert reports dead processes."""
    import signal

    run.send(signal.SIGINT)
    assert run.end(60) == 130, run.output()
    assert not list(run.folder.glob("runs/*.targets.json"))
    end = time.monotonic() + 20
    while prometheus.series('{__name__=~"sideways_.*|up"}') and time.monotonic() < end:
        time.sleep(0.3)
    assert prometheus.series('{__name__=~"sideways_.*|up"}') == []
