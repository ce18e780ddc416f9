"""Metrics as Prometheus reads them."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry.metric_registry import MetricRegistry


def shown(registry: MetricRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(generate_latest(registry.registry).decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("sideways")]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
