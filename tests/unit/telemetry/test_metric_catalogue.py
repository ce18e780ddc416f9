"""The table of metrics, and what is made from it."""

import re
from pathlib import Path

from common.telemetry.metric_catalogue import METRICS, document
from deploy.grafana.build import DASHBOARDS, FOLDER, built

ROOT = Path(__file__).parents[3]


def test_the_document_and_the_dashboards_are_what_the_code_makes() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == document(), (
        "run python -m common.telemetry.metric_catalogue > docs/metrics.md"
    )
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)
    for name in DASHBOARDS:
        assert (FOLDER / f"{name}.json").read_text() == built(name), "run python deploy/grafana/build.py"


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"sideways_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith("_total"), "the exposition adds it"
        assert metric.name.endswith(f"_{metric.unit}") or not metric.unit


def test_no_more_than_what_is_in_the_table_is_asked_for() -> None:
    """A dashboard or an alert that names a metric which does not exist would just stay empty."""
    known = {metric.shown for metric in METRICS if metric.kind != "histogram"}
    known |= {f"{m.name}_{end}" for m in METRICS if m.kind == "histogram" for end in ("bucket", "sum", "count")}
    text = (ROOT / "deploy/prometheus/alerts.yml").read_text() + "".join(built(name) for name in DASHBOARDS)
    asked = set(re.findall(r"sideways_[a-z_]+", text))
    assert asked <= known
    assert known - asked <= {f"{m.name}_bucket" for m in METRICS} | {f"{m.name}_count" for m in METRICS}
