"""A process's metrics: prometheus_client objects, created from the table in metric_catalogue.py on first use.

Each process has its own registry and port (http_server.py), so its series end with it. Values are written a few times a
second, or read when Prometheus scrapes; nothing here is on the hot path of a tick.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from common.telemetry.metric_catalogue import EDGES, TABLE

disable_created_metrics()  # otherwise every counter has a second series


class MetricRegistry:
    """The metrics of one process.

    Attributes:
        registry: the prometheus_client registry, which the HTTP server reads from another thread.
    """

    def __init__(self, **labels: str) -> None:
        """`labels` are the default values of these labels, for every metric that has them."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._labels = labels
        self._metrics: dict[str, Any] = {}
        self._watched = _WatchedCounters()
        self.registry.register(self._watched)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Increment a counter by `amount`. 0 creates its series."""
        self._child(name, labels).inc(amount)

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Take a gauge's or counter's value from `read`, which is called at each scrape, in another thread."""
        if TABLE[name].kind == "counter":
            self._watched.add(name, self._values(name, labels), read)
        else:
            self._child(name, labels).set_function(read)

    def observe(self, name: str, seconds: NDArray[np.float64], **labels: str) -> None:
        """Add values, float64 [n], to a histogram at once; prometheus_client only takes them one by one."""
        histogram = self._child(name, labels)
        counts = np.bincount(np.searchsorted(EDGES, seconds), minlength=len(EDGES) + 1)
        for bucket, count in zip(histogram._buckets, counts.tolist(), strict=True):
            bucket.inc(count)
        histogram._sum.inc(float(seconds.sum()))

    def numbers(self) -> dict[str, float]:
        """The current value of every series, keyed as in a query, `name{label="value"}`. Thread-safe."""
        families = self.registry.collect()
        samples = [sample for family in families if family.name in TABLE for sample in family.samples]
        return {_series(sample.name, sample.labels): sample.value for sample in samples}

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        if name not in self._metrics:
            self._metrics[name] = self._create(name)
        values = self._values(name, labels)
        return self._metrics[name].labels(*values) if values else self._metrics[name]

    def _create(self, name: str) -> Any:
        metric = TABLE[name]
        arguments = (metric.name, metric.help, metric.labels)
        if metric.kind == "histogram":
            return Histogram(*arguments, registry=self.registry, buckets=EDGES.tolist())
        return {"counter": Counter, "gauge": Gauge}[metric.kind](*arguments, registry=self.registry)

    def _values(self, name: str, labels: dict[str, str]) -> tuple[str, ...]:
        every = {**self._labels, **labels}
        return tuple(every[label] for label in TABLE[name].labels)


class _WatchedCounters(Collector):
    """Counters whose values are kept elsewhere: prometheus_client's can only be incremented."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[str, dict[tuple[str, ...], Callable[[], float]]] = defaultdict(dict)

    def add(self, name: str, labels: tuple[str, ...], read: Callable[[], float]) -> None:
        """Register a counter series with these label values."""
        with self._lock:
            self._reads[name][labels] = read

    def collect(self) -> Iterable[Metric]:
        """Yield all counters with their current values."""
        with self._lock:
            reads = {name: dict(series) for name, series in self._reads.items()}
        for name, series in reads.items():
            family = CounterMetricFamily(name, TABLE[name].help, labels=TABLE[name].labels)
            for labels, read in series.items():
                family.add_metric(labels, float(read()))
            yield family


def _series(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name
