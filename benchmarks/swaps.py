"""Whether a swap is ever felt: queries of one thread, while another process publishes as fast as the pipeline would.

The reader has a core of its own and the publisher the others, as on two machines: what is measured is the swap, and not that
two programs share a core.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from benchmarks.publisher import Publisher
from benchmarks.report import Row
from benchmarks.synthetic import MILLION, million
from pipeline import Reader

ROUNDS = 5
SECONDS = 3.0
INTERVAL = 0.1
"""Seconds between publications: the least that the settings allow by default."""
NEVER = 10**6


@dataclass
class Asked:
    """What came of a few seconds of queries."""

    seconds: list[float] = field(default_factory=list)
    met: list[float] = field(default_factory=list)
    """Seconds of those queries during which the reader went over to another generation."""
    failed: int = 0
    wrong: int = 0

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) * 1000


def swaps() -> Iterator[Row]:
    """Three seconds without and three with ten publications a second, five times over, in an index of a million passages."""
    large = million()
    with apart() as others, Reader.open(large.home.blobs) as reader, Publisher(large.home, cores=others) as publisher:
        queries = _stored(reader)
        ask(reader, queries, 1.0)
        rounds, published = [], 0
        for _ in range(ROUNDS):
            pair = []
            for interval in (NEVER, INTERVAL):
                publisher.start(SECONDS, interval)
                pair.append(ask(reader, queries, SECONDS))
                published += publisher.wait()
            rounds.append(pair)
    every = [asked for pair in rounds for asked in pair]
    yield Row(f"swaps under queries of {MILLION:,} passages", published, "swaps")
    yield Row("queries meanwhile", sum(len(swapped.seconds) for _, swapped in rounds), "queries")
    yield Row("queries failed", sum(asked.failed for asked in every), "queries", "<= 0")
    yield Row("wrong answers", sum(asked.wrong for asked in every), "queries", "<= 0")
    for which, name in enumerate(("without swaps", f"with {1 / INTERVAL:.0f} swaps a second")):
        yield Row(f"query {name}, p50", statistics.median(pair[which].percentile(50) for pair in rounds), "ms")
        yield Row(f"query {name}, p99", statistics.median(pair[which].percentile(99) for pair in rounds), "ms")
        yield Row(f"query {name}, slowest of all", max(pair[which].percentile(100) for pair in rounds), "ms")
    ratios = [swapped.percentile(99) / still.percentile(99) for still, swapped in rounds]
    yield Row("p99 of queries with swaps / without", statistics.median(ratios), "ratio", "<= 2.0")
    slowest = [max(swapped.met) * 1000 / swapped.percentile(99) for _, swapped in rounds]
    yield Row("slowest query that met a swap / p99 of all", statistics.median(slowest), "ratio", "<= 2.0")


@contextmanager
def apart() -> Iterator[set[int]]:
    """Keep this process on one core; yields the others, or the same where there are none."""
    cores = os.sched_getaffinity(0)
    own = {max(cores)}
    os.sched_setaffinity(0, own)
    try:
        yield cores - own or own
    finally:
        os.sched_setaffinity(0, cores)


def _stored(reader: Reader, number: int = 500) -> list[tuple[np.ndarray, str]]:
    """Vectors of the largest segment, and the documents whose they are: the right first answer to each is known."""
    assert reader.snapshot
    segment = reader.snapshot.views[0].segment
    rows = np.random.default_rng(6).integers(0, segment.rows, number)
    holding = segment.holding(rows.tolist())
    return [(vector, holding[row][0].uri) for vector, row in zip(segment.vectors.vectors_of(rows), rows.tolist(), strict=True)]


def ask(reader: Reader, queries: list[tuple[np.ndarray, str]], seconds: float, k: int = 10) -> Asked:
    """One query after the other; whatever goes wrong is counted."""
    asked, end, turn = Asked(), time.perf_counter() + seconds, 0
    while (begin := time.perf_counter()) < end:
        vector, uri = queries[turn % len(queries)]
        generation = reader.generation
        try:
            asked.wrong += reader.search(vector, k)[0].uri != uri
        except Exception:  # whatever it is, a query failed
            asked.failed += 1
        asked.seconds.append(time.perf_counter() - begin)
        if reader.generation != generation:
            asked.met.append(asked.seconds[-1])
        turn += 1
    return asked
