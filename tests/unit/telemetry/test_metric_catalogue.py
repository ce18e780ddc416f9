"""The catalogue of metrics, and what is generated from it."""

import re
from pathlib import Path

from common.telemetry.metric_catalogue import METRICS, document
from deploy.grafana.build import DASHBOARDS, FOLDER, built

ROOT = Path(__file__).parents[3]


def test_docs_and_dashboards_are_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == document(), (
        "run python -m common.telemetry.metric_catalogue > docs/metrics.md"
    )
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)
    for name in DASHBOARDS:
        assert (FOLDER / f"{name}.json").read_text() == built(name), "run python deploy/grafana/build.py"


def test_metric_names_follow_prometheus_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"sideways_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith("_total"), "the exposition adds it"
        assert metric.name.endswith(f"_{metric.unit}") or not metric.unit


def test_dashboards_and_alerts_use_only_known_metrics() -> None:
    """A panel or an alert with an unknown metric would stay empty without an error."""
    known = {metric.shown for metric in METRICS if metric.kind != "histogram"}
    known |= {f"{m.name}_{end}" for m in METRICS if m.kind == "histogram" for end in ("bucket", "sum", "count")}
    text = (ROOT / "deploy/prometheus/alerts.yml").read_text() + "".join(built(name) for name in DASHBOARDS)
    used = set(re.findall(r"sideways_[a-z_]+", text))
    assert used <= known
    assert known - used <= {f"{m.name}_bucket" for m in METRICS} | {f"{m.name}_count" for m in METRICS}
