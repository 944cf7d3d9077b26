"""How long an answer takes: by size and kind of index, filtered, with deletes, in batches, while generations are swapped. And opening."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.publisher import Publisher
from benchmarks.report import Row
from benchmarks.swaps import NEVER
from benchmarks.synthetic import MILLION, Million, index, million, vectors
from pipeline import Reader
from pipeline.index.draft import Remove
from pipeline.index.home import Home
from pipeline.index.manifest import Pointer
from pipeline.index.snapshot import EVERYTHING, Filter, Snapshot
from pipeline.sinks.swap import Swap

SECONDS = 3.0
"""Of queries per figure, five hundred at the most."""
BATCH = 32
FILTERS = {
    "of one type, a fifth": Filter(media_type="application/pdf"),
    "of one folder, a fiftieth": Filter(prefix="file:///bench/00007/"),
    "changed lately, a tenth": Filter(changed_since=MILLION / 20 * 0.9),
}
TEXTS = (
    "when is the tide highest at the spring equinox",
    "how do I renew a certificate before it expires",
    "what does the contract say about late delivery of parts",
    "minutes of the last meeting of the harbour board",
)


def opening() -> Iterator[Row]:
    """A million passages from files that the page cache has: until the first answer. Five readers each, none remembering another."""
    large = million()
    query = vectors(1, np.random.default_rng(10))
    for name, generation in (("one segment", large.merged), ("twenty segments", large.unmerged)):
        pointer = Pointer.to(large.home.load(generation))
        measured = []
        for _ in range(5):
            home = Home(large.home.blobs)
            begin = time.perf_counter()
            snapshot = Snapshot.open(home, home.read(pointer))
            opened = time.perf_counter() - begin
            snapshot.search(query, 10)
            measured.append((time.perf_counter() - begin, opened))
        answered, opened = (statistics.median(column) * 1000 for column in zip(*measured, strict=True))
        yield Row(f"opening {MILLION:,} passages in {name}", opened, "ms", "<= 100")
        yield Row(f"opening {MILLION:,} passages in {name}, first answer", answered, "ms")


def search() -> Iterator[Row]:
    """Single queries of one thread, top 10; inner products of stored vectors, and the passages read."""
    queries = vectors(500, np.random.default_rng(11))
    for passages in (10_000, 100_000):
        with index(passages, per_draft=passages) as (home, _):
            yield from _told(f"exact, {passages:,} passages", _opened(home), queries)
        with index(passages, per_draft=passages, exact_rows=1) as (home, _):
            yield from _told(f"{_kinds(_opened(home))} if forced, {passages:,} passages", _opened(home), queries)
    large = million()
    unmerged = Snapshot.open(large.home, large.home.load(large.unmerged))
    yield from _told(f"exact in twenty segments, {MILLION:,} passages", unmerged, queries)
    merged = _opened(large.home)
    yield from _told(f"{_kinds(merged)}, {MILLION:,} passages", merged, queries)
    for name, wanted in FILTERS.items():
        yield from _told(f"{name}, of {MILLION:,} passages", merged, queries, wanted)
    yield from _batched(merged, queries)
    yield from _swapped(large, queries)
    yield from _with_deletes(large, queries)
    yield from _embedding()


def _told(name: str, snapshot: Snapshot, queries: np.ndarray, wanted: Filter = EVERYTHING) -> Iterator[Row]:
    yield from _percentiles(name, _timed(lambda query: snapshot.search(query, 10, wanted), list(queries)))


def _timed(answer: Any, queries: list[Any]) -> list[float]:
    for query in queries[:10]:
        answer(query)
    measured: list[float] = []
    end = time.perf_counter() + SECONDS
    for query in queries:
        begin = time.perf_counter()
        answer(query)
        measured.append(time.perf_counter() - begin)
        if begin > end:
            break
    return measured


def _percentiles(name: str, seconds: list[float]) -> Iterator[Row]:
    for share in (50, 95):
        yield Row(f"query {name}, p{share}", float(np.percentile(seconds, share)) * 1000, "ms")


def _batched(snapshot: Snapshot, queries: np.ndarray) -> Iterator[Row]:
    batches = list(queries[: len(queries) // BATCH * BATCH].reshape(-1, BATCH, queries.shape[1]))
    measured = _timed(lambda batch: snapshot.search(batch, 10), batches)
    yield Row(f"query in a batch of {BATCH}, {MILLION:,} passages, all threads", statistics.median(measured) / BATCH * 1000, "ms")


def _swapped(large: Million, queries: np.ndarray) -> Iterator[Row]:
    with Reader.open(large.home.blobs) as reader, Publisher(large.home) as publisher:
        for interval, name in ((NEVER, "without"), (1.0, "with")):
            publisher.start(2 * SECONDS, interval)
            measured, end = [], time.perf_counter() + 2 * SECONDS
            while (begin := time.perf_counter()) < end:
                reader.search(queries[len(measured) % len(queries)], 10)
                measured.append(time.perf_counter() - begin)
            publisher.wait()
            yield from _percentiles(f"{name} a swap every second, {MILLION:,} passages", measured)


def _with_deletes(large: Million, queries: np.ndarray) -> Iterator[Row]:
    """Every tenth document is removed."""
    draft = large.writer.draft([Remove(f"file:///bench/{number // 1000:05}/{number:08}.txt") for number in range(0, MILLION // 20, 10)])
    assert draft
    Swap(large.home).publish(draft)
    yield from _told(f"with a tenth deleted, {MILLION:,} passages", _opened(large.home), queries)


def _embedding() -> Iterator[Row]:
    from pipeline.base.settings import Settings
    from pipeline.embedder import open_embedder

    embedder = open_embedder(Settings().model)
    embedder.warm()
    yield from _percentiles("embedded by the model, one at a time", _timed(lambda text: embedder.embed([text]), list(TEXTS * 25)))


def _opened(home: Home) -> Snapshot:
    found = home.current()
    assert found
    return Snapshot.open(home, found[0])


def _kinds(snapshot: Snapshot) -> str:
    return "/".join(sorted({view.ref.index_type for view in snapshot.views}))
