"""The numbers that a process shows to Prometheus, of the metrics in common/telemetry/metric_catalogue.py.

Each process has a registry and a port of its own (common/telemetry/http_server.py): its series die with it. Numbers are
written a few times a second, or read when Prometheus asks; nothing here is on a tick's path.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from common.telemetry.metric_catalogue import EDGES, TABLE, Metric

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
_Key = tuple[str, tuple[str, ...]]


class Board(Collector):
    """The numbers of one process; Prometheus reads them through `registry`, from another thread."""

    def __init__(self, **labels: str) -> None:
        """`labels` that all its metrics with such a label have, unless told otherwise."""
        self._labels = labels
        self._lock = threading.Lock()
        self._values: dict[_Key, float] = {}
        self._watched: dict[_Key, Callable[[], float]] = {}
        self._counts: dict[_Key, NDArray[np.int64]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge is now `value`."""
        with self._lock:
            self._values[self._key(name, labels)] = value

    def add(self, name: str, amount: float, **labels: str) -> None:
        """A counter grows by `amount`; with 0 its series begins."""
        assert TABLE[name].kind == "counter"
        key = self._key(name, labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def watch(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """What `read` returns is asked for whenever Prometheus asks, in another thread."""
        with self._lock:
            self._watched[self._key(name, labels)] = read

    def observe(self, name: str, seconds: NDArray[np.float64], **labels: str) -> None:
        """A histogram takes in values [n]."""
        assert TABLE[name].kind == "histogram"
        key = self._key(name, labels)
        found = np.bincount(np.searchsorted(EDGES, seconds), minlength=len(EDGES) + 1)
        with self._lock:
            self._counts[key] = self._counts[key] + found if key in self._counts else found
            self._values[key] = self._values.get(key, 0.0) + float(seconds.sum())

    def collect(self) -> Iterable[Any]:
        """All metric families that have a series."""
        with self._lock:
            values, watched, counts = dict(self._values), dict(self._watched), dict(self._counts)
        values |= {key: float(read()) for key, read in watched.items()}
        families: dict[str, Family] = {}
        for (name, labels), value in values.items():
            family = families.setdefault(name, _family(TABLE[name]))
            if isinstance(family, HistogramMetricFamily):
                family.add_metric(labels, _buckets(counts[name, labels]), value)
            else:
                family.add_metric(labels, value)
        return families.values()

    def _key(self, name: str, labels: dict[str, str]) -> _Key:
        every = {**self._labels, **labels}
        return name, tuple(every[label] for label in TABLE[name].labels)


def _family(metric: Metric) -> Family:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[metric.kind](metric.name, metric.help, labels=metric.labels)


def _buckets(counts: NDArray[np.int64]) -> list[tuple[str, float]]:
    """Prometheus' buckets are cumulative."""
    edges = [*(str(float(edge)) for edge in EDGES), "+Inf"]
    return list(zip(edges, np.cumsum(counts).tolist(), strict=True))
