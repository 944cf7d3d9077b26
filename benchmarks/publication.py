"""What one small change costs a large index, and whether a swap is ever felt. Synthetic vectors, no processes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np

from benchmarks.report import Row
from pipeline import Reader
from pipeline.blobs.folder import FolderStore
from pipeline.index.documents import DocumentFacts, IndexedDocument
from pipeline.index.draft import Add
from pipeline.index.home import Home
from pipeline.index.recipe import Recipe
from pipeline.index.writer import Writer
from pipeline.model import Passage
from pipeline.sinks.swap import Swap

DIMENSION = 384


def document(number: int, rows: int, chance: np.random.Generator) -> IndexedDocument:
    vectors = chance.standard_normal((rows, DIMENSION), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    passages = tuple(Passage(f"passage {row} of document {number} " * 8, row * 300, row * 300 + 299) for row in range(rows))
    facts = DocumentFacts(f"file:///bench/{number:08}.txt", "1", f"{number:064x}", time.time_ns() // 1000, 1000, "text/plain", 0.0)
    return IndexedDocument.of(facts, passages, vectors)


@contextmanager
def index(passages: int, *, rows: int = 50, exact_rows: int = 10**9) -> Iterator[tuple[Home, Writer]]:
    """A published index of `passages` passages in documents of `rows` passages."""
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        home = Home(FolderStore(Path(folder) / "index"))
        writer = Writer(home, Recipe.of({"model": "synthetic"}), scratch=Path(folder) / "scratch", exact_rows=exact_rows)
        per_draft = 50_000 // rows
        for first in range(0, passages // rows, per_draft):
            changes = [Add(document(number, rows, chance)) for number in range(first, min(first + per_draft, passages // rows))]
            draft = writer.draft(changes)
            assert draft
            Swap(home).publish(draft)
        yield home, writer


def written(home: Home) -> dict[str, int]:
    return {info.name: info.size for prefix in ("segments/", "deletes/", "manifests/") for info in home.blobs.list(prefix)}


def one_file(passages: int = 500_000) -> Iterator[Row]:
    """Add, then replace, one document of one passage in an index of `passages` passages."""
    chance = np.random.default_rng(2)
    with index(passages) as (home, writer), Reader.open(home.blobs, refresh_every=0.01) as reader:
        seconds, sizes = [], []
        for number in (10**7, 10**7 + 1, 10**7 + 2, 0, 1):  # three new ones, then two that replace fifty passages each
            before, one = written(home), document(number, 1, chance)
            begin = time.perf_counter()
            draft = writer.draft([Add(one)])
            assert draft
            manifest = Swap(home).publish(draft)
            while reader.generation < manifest.generation:
                time.sleep(0.001)
            assert reader.search(one.vectors[0], 1)[0].uri == one.uri
            seconds.append(time.perf_counter() - begin)
            sizes.append(sum(size for name, size in written(home).items() if name not in before))
        yield Row(f"one file into {passages:,} passages, written", max(sizes) / 1000, "kB", "<= 1000")
        yield Row(f"one file into {passages:,} passages, searchable after", statistics.median(seconds), "s", "<= 1.0")


def swaps(number: int = 200) -> Iterator[Row]:
    """`number` publications under a loop of queries: none may fail, none may give a wrong answer."""
    chance = np.random.default_rng(3)
    with index(20_000) as (home, writer), Reader.open(home.blobs, refresh_every=0.005) as reader:
        probe = document(10**7, 1, chance)
        _publish(home, writer, [Add(probe)])
        while reader.generation < 2:
            time.sleep(0.001)
        failed, wrong, asked, done = [0], [0], [0], [False]

        def ask() -> None:
            while not done[0]:
                try:
                    hits = reader.search(probe.vectors[0], 3)
                    wrong[0] += hits[0].uri != probe.uri
                except Exception:  # whatever it is, a query failed
                    failed[0] += 1
                asked[0] += 1

        askers = [Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        for swap in range(number):
            _publish(home, writer, [Add(document(swap, 50, chance))])
            while plan := writer.plan_merge():
                writer.commit(plan, Swap(home).publish)
        done[0] = True
        for asker in askers:
            asker.join()
        yield Row(f"queries during {number} swaps", asked[0], "queries")
        yield Row(f"queries failed during {number} swaps", failed[0], "queries", "<= 0")
        yield Row(f"wrong answers during {number} swaps", wrong[0], "queries", "<= 0")


def _publish(home: Home, writer: Writer, changes: list[Add]) -> None:
    draft = writer.draft(changes)
    assert draft
    Swap(home).publish(draft)
