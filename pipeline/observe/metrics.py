"""Figures for Prometheus. Workers add to totals in Redis, one exporter reads them: right for any number of processes and hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

from pipeline.base.meter import COUNTERS, HISTOGRAMS, PLAIN, parsed
from pipeline.context import Context
from pipeline.ledger.progress import STAGES

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Labels = tuple[tuple[str, str], ...]


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

        figures = [(*parsed(field), value) for field, value in {**dict.fromkeys(PLAIN, 0.0), **totals}.items()]
        for name, help_text in COUNTERS.items():
            rows = [(labels, value) for found, labels, value in figures if found == name]
            keys = sorted({key for labels, _ in rows for key in labels})
            counter = CounterMetricFamily(f"dropdex_{name}", help_text, labels=keys)
            for labels, value in rows:
                counter.add_metric([labels.get(key, "") for key in keys], value)
            yield counter
        for name, (help_text, buckets) in HISTOGRAMS.items():
            yield _histogram(HistogramMetricFamily, name, help_text, buckets, figures)

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        from pipeline.observe.status import figures

        report = figures(self._context)
        for name, value in report.items():
            if isinstance(value, int | float | None) and not name.endswith(("_total", "_age")):
                figure = float("nan") if value is None else float(value)  # nobody knows
                yield GaugeMetricFamily(f"dropdex_{name}", f"{name.replace('_', ' ')}, as dropdex status tells it", value=figure)
        stage = GaugeMetricFamily("dropdex_stage", "1 for what is being done now", labels=["stage"])
        for name in STAGES:
            stage.add_metric([name], name == report["stage"])
        yield stage
        yield from self._jobs(report)
        queues = GaugeMetricFamily("dropdex_queue_messages", "Messages that wait in a queue", labels=["queue"])
        for queue, length in self._context.queue_lengths().items():
            queues.add_metric([queue], length)
        yield queues
        alive = GaugeMetricFamily("dropdex_process_up", "Processes that showed life lately", labels=["process"])
        for process in report["alive"]:
            alive.add_metric([process], 1)
        yield alive

    def _jobs(self, report: Mapping[str, Any]) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        from pipeline.observe.status import periods

        ages = GaugeMetricFamily("dropdex_job_age_seconds", "Seconds since a scheduled job last succeeded", labels=["job"])
        every = GaugeMetricFamily("dropdex_job_period_seconds", "Seconds between two runs of a scheduled job", labels=["job"])
        late = GaugeMetricFamily("dropdex_job_overdue", "1 where a scheduled job last succeeded too long ago", labels=["job"])
        for job, period in periods(self._context.settings).items():
            every.add_metric([job], period)
            late.add_metric([job], job in report["overdue"])
            if f"{job}_age" in report:
                ages.add_metric([job], report[f"{job}_age"])
        yield from (ages, every, late)


def _histogram(
    family: Any, name: str, help_text: str, buckets: Iterable[float], figures: list[tuple[str, dict[str, str], float]]
) -> Metric:
    """Prometheus wants each bucket to count everything below it; the totals count what fell into it."""
    counts: dict[Labels, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    sums: dict[Labels, float] = defaultdict(float)
    for found, labels, value in figures:
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
