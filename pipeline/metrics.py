"""Figures for Prometheus. Workers add to totals in Redis, one exporter reads them: right for any number of processes and hosts.

Nothing here is remembered by a process for longer than a task, so a killed worker loses the figures of one batch.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from pipeline.context import Context

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)

Labels = tuple[tuple[str, str], ...]

COUNTERS = {
    "looks": "Documents looked at, by outcome",
    "embeddings": "Passages embedded",
    "reuses": "Documents whose content was known, so that nothing was embedded",
    "errors": "Failed calls to what we depend on, by service",
    "publications": "Generations published, by reason",
    "lease_waits": "Builds and merges that found another one under way",
}
HISTOGRAMS = {
    "stage_seconds": ("Seconds that a batch spent in a stage", SECONDS),
    "batch_documents": ("Documents per batch", SIZES),
    "freshness_seconds": ("Seconds from an event to its generation", SECONDS),
}


class Meter:
    """Collects what happens in this process until it is flushed. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._figures: dict[str, float] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count `amount` more of one of COUNTERS."""
        self._add(_field(name, labels), amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """One value of one of HISTOGRAMS."""
        buckets = HISTOGRAMS[name][1]
        place = bisect_left(buckets, value)
        le = str(buckets[place]) if place < len(buckets) else "+Inf"
        self._add(_field(f"{name}_bucket", {**labels, "le": le}), 1)
        self._add(_field(f"{name}_sum", labels), value)

    def _add(self, field: str, amount: float) -> None:
        with self._lock:
            self._figures[field] = self._figures.get(field, 0) + amount

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.observe("stage_seconds", time.perf_counter() - begin, stage=name)

    def take(self) -> dict[str, float]:
        """What was collected, which is forgotten here."""
        with self._lock:
            figures, self._figures = self._figures, {}
        return figures


def _field(name: str, labels: Mapping[str, str]) -> str:
    return "|".join([name, *(f"{key}={value}" for key, value in sorted(labels.items()))])


def _parsed(field: str) -> tuple[str, dict[str, str]]:
    name, *labels = field.split("|")
    return name, dict(label.split("=", 1) for label in labels)


class Exporter:
    """A prometheus_client collector over the ledger and the published generation."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """Everything, read at the moment of the scrape."""
        yield from self._totals(self._context.ledger.totals())
        yield from self._gauges()

    def _totals(self, totals: Mapping[str, float]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        parsed = [(*_parsed(field), value) for field, value in totals.items()]
        for name, help_text in COUNTERS.items():
            rows = [(labels, value) for found, labels, value in parsed if found == name]
            keys = sorted({key for labels, _ in rows for key in labels})
            counter = CounterMetricFamily(f"dropdex_{name}", help_text, labels=keys)
            for labels, value in rows:
                counter.add_metric([labels.get(key, "") for key in keys], value)
            yield counter
        for name, (help_text, buckets) in HISTOGRAMS.items():
            yield _histogram(HistogramMetricFamily, name, help_text, buckets, parsed)

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        from pipeline.status import JOBS, figures

        report = figures(self._context)
        for name, value in report.items():
            if isinstance(value, int | float) and not name.endswith(("_total", "_age")):
                yield GaugeMetricFamily(f"dropdex_{name}", f"{name.replace('_', ' ')}, as dropdex status tells it", value=float(value))
        jobs = GaugeMetricFamily("dropdex_job_age_seconds", "Seconds since a scheduled job last succeeded", labels=["job"])
        for job in JOBS:
            if f"{job}_age" in report:
                jobs.add_metric([job], report[f"{job}_age"])
        yield jobs
        queues = GaugeMetricFamily("dropdex_queue_messages", "Messages that wait in a queue", labels=["queue"])
        for queue, length in self._context.queue_lengths().items():
            queues.add_metric([queue], length)
        yield queues
        alive = GaugeMetricFamily("dropdex_process_up", "Processes that showed life lately", labels=["process"])
        for process in report["alive"]:
            alive.add_metric([process], 1)
        yield alive


def _histogram(family: Any, name: str, help_text: str, buckets: Iterable[float], parsed: list[tuple[str, dict[str, str], float]]) -> Metric:
    """Prometheus wants each bucket to count everything below it; the totals count what fell into it."""
    counts: dict[Labels, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[Labels, float] = defaultdict(float)
    for found, labels, value in parsed:
        key = tuple(sorted((label, text) for label, text in labels.items() if label != "le"))
        if found == f"{name}_bucket":
            counts[key][labels["le"]] += value
        elif found == f"{name}_sum":
            sums[key] += value
    names = sorted({label for key in counts for label, _ in key})
    histogram = family(f"dropdex_{name}", help_text, labels=names)
    bounds = [*map(str, buckets), "+Inf"]
    for key, below in counts.items():
        rows = list(zip(bounds, accumulate(below[bound] for bound in bounds), strict=True))
        histogram.add_metric([dict(key).get(label, "") for label in names], rows, sums[key])
    return cast("Metric", histogram)


def serve(context: Context, port: int, address: str) -> None:
    """Serve the figures over HTTP until the process ends."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Exporter(context))
    _, thread = start_http_server(port, address, registry)
    thread.join()
