"""What a process counts and times, until it is added to the totals in Redis.

Nothing is remembered for longer than a task, so a killed worker loses the figures of one batch.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)

COUNTERS = {
    "looks": "Documents looked at, by outcome",
    "embeddings": "Passages embedded",
    "reuses": "Documents whose content was known, so that nothing was embedded",
    "errors": "Failed calls to what we depend on, by service",
    "publications": "Generations published, by reason",
    "lease_waits": "Builds and merges that found another one under way",
    "canary_refusals": "Generations that were not served, as they were not what was written or did not find their own vectors",
}
PLAIN = ("embeddings", "reuses", "canary_refusals")
"""Counters without labels. They are told from the start: who watches for growth has to see nothing before there is something."""

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


def parsed(field: str) -> tuple[str, dict[str, str]]:
    name, *labels = field.split("|")
    return name, dict(label.split("=", 1) for label in labels)
