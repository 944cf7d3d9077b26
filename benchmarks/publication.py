"""What one small change costs a large index, and a hundred thousand vectors an empty one. Synthetic vectors, no processes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.report import Row
from benchmarks.synthetic import MILLION, document, documents, index, million, publish
from pipeline import Reader
from pipeline.index.documents import IndexedDocument
from pipeline.index.home import Home
from pipeline.index.writer import Writer

FEW = 2_000
FLAT = 100_000
NEW = 10**7
"""Numbers of documents that no index was filled with."""


def one_file() -> Iterator[Row]:
    """Add one document of one passage to a large index and to a small one; then replace one of twenty passages in each."""
    large = million()
    with index(FEW) as small:
        few, many = ([_one(*place, number) for number in range(5)] for place in (small, (large.home, large.writer)))
        replaced = _one(large.home, large.writer, -NEW)
    for (seconds, written, files), passages in ((_medians(few), FEW), (_medians(many), MILLION)):
        bar = "<= 200" if passages == MILLION else ""
        yield Row(f"one file into {passages:,} passages, written", written / 1000, "kB", bar)
        yield Row(f"one file into {passages:,} passages, files", files, "files")
        yield Row(f"one file into {passages:,} passages, searchable after", seconds, "s")
    yield Row(f"one file, written, {MILLION:,} / {FEW:,}", _medians(many)[1] / _medians(few)[1], "ratio", "<= 1.5")
    yield Row(f"one file, searchable after, {MILLION:,} / {FEW:,}", _medians(many)[0] / _medians(few)[0], "ratio", "<= 1.5")
    yield Row(f"one file replaced in {MILLION:,} passages, written", replaced[1] / 1000, "kB", "<= 200")


def _one(home: Home, writer: Writer, number: int) -> tuple[float, int, int]:
    """Seconds until an open reader has it, bytes and files that were written for it."""
    one = document(NEW + number, 1, np.random.default_rng(NEW + number))
    with Reader.open(home.blobs, refresh_every=0.001) as reader:
        reader.search(one.vectors[0], 1)
        before = written(home)
        begin = time.perf_counter()
        manifest = publish(home, writer, [one])
        while reader.generation < manifest.generation:
            time.sleep(0.0005)
        seconds = time.perf_counter() - begin
        assert reader.search(one.vectors[0], 1)[0].uri == one.uri
    new = {name: size for name, size in written(home).items() if name not in before or name == home.pointer_name}
    return seconds, sum(new.values()), len(new)


def _medians(measured: list[tuple[float, int, int]]) -> tuple[float, ...]:
    return tuple(statistics.median(values) for values in zip(*measured, strict=True))


def written(home: Home) -> dict[str, int]:
    return {info.name: info.size for info in home.blobs.list("")}


def flat() -> Iterator[Row]:
    """Publish a hundred thousand vectors, with their passages and documents, as the first generation of an index. Five times."""
    chance = np.random.default_rng(4)
    made: list[IndexedDocument] = documents(0, FLAT // 20, 20, chance)
    measured = []
    for _ in range(5):
        with index(0) as (home, writer):
            begin = time.perf_counter()
            publish(home, writer, made)
            measured.append(time.perf_counter() - begin)
    yield Row(f"{FLAT:,} vectors to a published flat index", statistics.median(measured), "s", "<= 1.0")
