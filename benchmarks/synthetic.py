"""Documents and vectors made by chance, always the same ones, and an index filled with them.

The vectors lie in overlapping clusters and mostly in a few dozen directions, as those of texts do: inverted lists find
their neighbours as hard to tell apart as those of real passages (65,000 of them in 1,022 lists, 64 of those probed: recall
0.96). Uniform vectors have no neighbours worth finding, and tight clusters are found by anything.
"""

from __future__ import annotations

import atexit
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.base.model import Passage
from pipeline.base.settings import load
from pipeline.blobs.folder import FolderStore
from pipeline.index.documents import DocumentFacts, IndexedDocument, Vectors
from pipeline.index.draft import Add
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.index.recipe import recipe_for
from pipeline.index.writer import Writer
from pipeline.sinks.swap import Swap

DIMENSION = 384
DIRECTIONS = 64
CLUSTERS = 500
PER_DOCUMENT = 20
PER_DRAFT = 50_000
MILLION = 1_000_000
TYPES = ("text/plain", "text/plain", "text/plain", "application/pdf", "text/html")
"""One document in five is a PDF."""


def vectors(rows: int, chance: np.random.Generator) -> Vectors:
    """Of unit length. Two calls share their clusters, so that one's vectors are good queries for the other's."""
    centres, directions = _space()
    found = 2 * chance.standard_normal((rows, DIRECTIONS), dtype=np.float32)
    found += centres[chance.integers(0, CLUSTERS, rows)]
    found = found @ directions
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def _space() -> tuple[Vectors, Vectors]:
    fixed = np.random.default_rng(7)
    weights = np.arange(1, DIRECTIONS + 1, dtype=np.float32) ** -0.5
    directions = np.linalg.qr(fixed.standard_normal((DIMENSION, DIRECTIONS)))[0].T.astype(np.float32) * weights[:, None]
    return fixed.standard_normal((CLUSTERS, DIRECTIONS), dtype=np.float32), directions


def documents(first: int, number: int, rows: int, chance: np.random.Generator) -> list[IndexedDocument]:
    """`number` documents of `rows` passages of 300 characters, numbered from `first`; their uris are in the order of the numbers."""
    table = vectors(number * rows, chance)
    return [_document(first + place, table[place * rows : (place + 1) * rows]) for place in range(number)]


def document(number: int, rows: int, chance: np.random.Generator) -> IndexedDocument:
    return documents(number, 1, rows, chance)[0]


def _document(number: int, own: Vectors) -> IndexedDocument:
    texts = (f"passage {row:03} of document {number:08} ".ljust(30, ".") * 10 for row in range(len(own)))
    passages = tuple(Passage(text, row * 300, row * 300 + len(text)) for row, text in enumerate(texts))
    facts = DocumentFacts(
        f"file:///bench/{number // 1000:05}/{number:08}.txt",
        "1",
        f"{number:064x}",
        time.time_ns() // 1000,
        300 * len(own),
        TYPES[number % len(TYPES)],
        float(number),
    )
    return IndexedDocument.of(facts, passages, own)


@contextmanager
def index(passages: int, *, exact_rows: int = 200_000, per_draft: int = PER_DRAFT) -> Iterator[tuple[Home, Writer]]:
    """A published index of `passages` passages as builds leave it: a segment for every `per_draft` of them."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        home = Home(FolderStore(Path(folder) / "index"))
        writer = open_writer(home, Path(folder) / "scratch", exact_rows=exact_rows)
        _fill(home, writer, passages, per_draft)
        yield home, writer


@dataclass(frozen=True)
class Million:
    """A million passages that were built, and then merged into one segment, as they are every hour."""

    home: Home
    writer: Writer
    unmerged: int
    """The generation before the merge: twenty segments, searched exactly."""
    merged: int
    seconds: float
    """Of the merge."""


@cache
def million() -> Million:
    """Made once for all benchmarks of a run, and removed at its end."""
    kept = ExitStack()
    atexit.register(kept.close)
    home, writer = kept.enter_context(index(MILLION))
    unmerged = _generation(home)
    seconds = rebuild(home, writer)
    return Million(home, writer, unmerged, _generation(home), seconds)


def _generation(home: Home) -> int:
    found = home.current()
    assert found
    return found[0].generation


def rebuild(home: Home, writer: Writer) -> float:
    """Merge everything into one segment as the maintenance worker does; the seconds until it is published."""
    begin = time.perf_counter()
    plan = writer.plan_rebuild()
    assert plan
    writer.commit(plan, Swap(home).publish)
    return time.perf_counter() - begin


def open_writer(home: Home, scratch: Path, *, exact_rows: int = 200_000) -> Writer:
    """With the recipe of a pipeline as it comes, so that one can go on with the index."""
    return Writer(home, recipe_for(load({})), scratch=scratch, exact_rows=exact_rows)


def _fill(home: Home, writer: Writer, passages: int, per_draft: int) -> None:
    chance, step, end = np.random.default_rng(1), per_draft // PER_DOCUMENT, passages // PER_DOCUMENT
    for first in range(0, end, step):
        publish(home, writer, documents(first, min(step, end - first), PER_DOCUMENT, chance))


def publish(home: Home, writer: Writer, changed: list[IndexedDocument]) -> Manifest:
    draft = writer.draft([Add(one) for one in changed])
    assert draft
    return Swap(home).publish(draft)
