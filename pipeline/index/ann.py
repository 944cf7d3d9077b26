"""Vectors in FAISS, which only this module and `centroids` know. Scores are inner products; vectors have unit length.

Every index type stores the same float16 codes, so whatever a segment was, its vectors come out of it bit by bit and go
into the next one without loss. A single query runs on one thread: a team of threads costs more than it saves, and
queries run beside each other anyway.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import CorruptIndex
from pipeline.index.centroids import Centroids
from pipeline.index.choice import GRAPH_DEGREE, Candidate, Measured, best, candidates, settled
from pipeline.index.documents import Vectors
from pipeline.index.manifest import IndexType

faiss: Any = importlib.import_module("faiss")
"""Untyped on purpose: the stubs it ships describe the C++ signatures, and not those its Python layer gives them."""

Scores = npt.NDArray[np.float32]
RowNumbers = npt.NDArray[np.int64]
Alive = npt.NDArray[np.bool_]

ALL_THREADS: Final = faiss.omp_get_max_threads()
FEW_QUERIES: Final = 8
"""Up to so many queries at once run on one thread."""
BLOCK: Final = 8192
"""Rows that are decoded to float32 at a time: 12 MB at 384 dimensions."""
BUILT_AT_A_TIME: Final = 32_768
"""Rows that are decoded while an index is built: 50 MB. With fewer, a busy machine's threads mostly wait for each other."""
TUNED_ON: Final = 200
"""Queries that recall is measured with: a standard error of half a percent at ten answers each."""
TUNED_K: Final = 10
TRAINING_POINTS: Final = 64
"""Per inverted list. FAISS takes up to 256, which triples the time and gains nothing we could measure."""
NOISE: Final = 0.3
"""Length of the noise added to a stored vector to make a query of it, a cosine of 0.96 to where it came from."""
NARROW: Final = 0.1
"""Where a filter leaves a smaller share of the rows, the nearest lists may hold none of them: probe all lists."""
WALKED: Final[dict[IndexType, float]] = {"exact": 0.0, "ivf": 1 / 256, "hnsw": NARROW}
"""Where a filter leaves a smaller share, go through its rows one by one. A row takes 1.8 µs so, and the whole of a million takes
inverted lists 6 ms; a graph has nothing but its few neighbours."""


@dataclass(frozen=True, slots=True)
class Built:
    """What kind of index was written, and what recall@10 it has at `breadth` (nprobe or efSearch)."""

    index_type: IndexType
    recall: float
    breadth: int


class Builder:
    """Collects vectors in float16 and writes the index that suits their number."""

    def __init__(self) -> None:
        self._exact: Any = None

    @property
    def rows(self) -> int:
        return int(self._exact.ntotal) if self._exact else 0

    @property
    def dimension(self) -> int:
        return int(self._exact.d) if self._exact else 0

    def add(self, vectors: Vectors) -> None:
        if self._exact is None:
            self._exact = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        faiss.omp_set_num_threads(1 if len(vectors) <= FEW_QUERIES else ALL_THREADS)
        self._exact.add(np.ascontiguousarray(vectors, dtype=np.float32))

    def write(self, path: Path, *, exact_rows: int, target_recall: float) -> Built:
        """Build the candidates for this number of rows, keep the fastest that reaches the target, else stay exact."""
        measured: list[Measured] = []
        indexes: dict[str, Any] = {}
        for candidate in candidates(self.rows, exact_rows):
            index = _build(self._exact, candidate)
            if found := _tune(self._exact, index, candidate, target_recall):
                measured.append(found)
                indexes[candidate.index_type] = index
            if settled(measured):
                break
        chosen = best(measured)
        faiss.write_index(indexes[chosen.candidate.index_type] if chosen else self._exact, str(path))
        return Built(chosen.candidate.index_type, chosen.recall, chosen.breadth) if chosen else Built("exact", 1.0, 0)


class VectorIndex:
    """An index file, memory-mapped. Safe to search from several threads at once."""

    def __init__(self, path: Path, index_type: IndexType, breadth: int) -> None:
        try:
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as error:
            raise CorruptIndex(f"{path.name} cannot be opened: {error}") from error
        self._index_type = index_type
        self._breadth = breadth

    @property
    def rows(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    def vectors(self, first: int, count: int) -> Vectors:
        """The stored vectors of consecutive rows."""
        return self.vectors_of(np.arange(first, first + count, dtype=np.int64))

    def vectors_of(self, rows: RowNumbers) -> Vectors:
        vectors: Vectors = self._index.reconstruct_batch(rows) if len(rows) else np.empty((0, self.dimension), np.float32)
        return vectors

    def search(self, queries: Vectors, k: int, alive: Alive | None = None) -> tuple[Scores, RowNumbers]:
        """The best `k` rows per query, best first, among the rows that are `alive` (None: all). Row -1: there are no more."""
        faiss.omp_set_num_threads(1 if len(queries) <= FEW_QUERIES else ALL_THREADS)
        if alive is None:
            return _search(self._index, self._breadth, queries, min(k, self.rows))
        left = int(np.count_nonzero(alive))
        share = left / max(1, self.rows)
        if left == 0 or share < WALKED[self._index_type]:
            return self._walk(queries, min(k, left), np.flatnonzero(alive))
        selector = faiss.IDSelectorBitmap(np.packbits(alive, bitorder="little"))
        breadth = int(self._breadth / share) if share >= NARROW else self.rows
        return _search(self._index, breadth, queries, min(k, left), selector)

    def _walk(self, queries: Vectors, k: int, rows: RowNumbers) -> tuple[Scores, RowNumbers]:
        """Exact search among a few rows, block by block."""
        scores = np.empty((len(queries), 0), np.float32)
        found = np.empty((len(queries), 0), np.int64)
        for first in range(0, len(rows), BLOCK):
            block = rows[first : first + BLOCK]
            scores = np.concatenate([scores, queries @ self.vectors_of(block).T], axis=1)
            found = np.concatenate([found, np.broadcast_to(block, (len(queries), len(block)))], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
        return scores, found


def _search(index: Any, breadth: int, queries: Vectors, k: int, selector: Any = None) -> tuple[Scores, RowNumbers]:
    if isinstance(index, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=min(breadth, index.nlist))
    elif isinstance(index, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=max(breadth, k))
    else:
        parameters = faiss.SearchParameters(sel=selector)
    scores, rows = index.search(queries, k, params=parameters)
    return scores, rows


def _blocks(index: Any) -> Iterator[tuple[int, Vectors]]:
    """First row and vectors, block by block."""
    for first in range(0, index.ntotal, BUILT_AT_A_TIME):
        yield first, index.reconstruct_n(first, min(BUILT_AT_A_TIME, index.ntotal - first))


def _best(exact: Any, queries: Vectors, k: int) -> RowNumbers:
    """The best `k` rows of each query. A third of the time that FAISS takes for many queries of float16 codes: these are decoded once."""
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    for first, block in _blocks(exact):
        scores, rows = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, rows + first)
    heap.finalize()
    found: RowNumbers = heap.I
    return found


def _build(exact: Any, candidate: Candidate) -> Any:
    faiss.omp_set_num_threads(ALL_THREADS)
    return _graph(exact) if candidate.index_type == "hnsw" else _inverted_lists(exact, candidate.lists)


def _graph(exact: Any) -> Any:
    index = faiss.IndexHNSWSQ(exact.d, faiss.ScalarQuantizer.QT_fp16, GRAPH_DEGREE, faiss.METRIC_INNER_PRODUCT)
    for _, block in _blocks(exact):
        index.add(block)
    return index


def _inverted_lists(exact: Any, lists: int) -> Any:
    half, inner = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(exact.d), exact.d, lists, half, inner, False)
    points = exact.reconstruct_batch(_sample(exact.ntotal, lists * TRAINING_POINTS))
    centroids = Centroids.of(points, lists)
    index.quantizer.add(centroids.all)
    index.train(points[:1])  # float16 has nothing to learn, and the lists have their centres
    for _, block in _blocks(exact):
        numbers = centroids.nearest(block)
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(numbers))
    index.make_direct_map()  # finds a row's list again when its vector is read back
    return index


def _sample(rows: int, size: int) -> RowNumbers:
    """Distinct rows, the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:size])


def _tune(exact: Any, index: Any, candidate: Candidate, target: float) -> Measured | None:
    """Find the smallest breadth whose recall@10 reaches `target`; None where none does.

    Queries are stored vectors, shaken a little, and never count themselves as an answer: a query that finds the vector
    it was made from would measure nothing.
    """
    rows = _sample(exact.ntotal, TUNED_ON)
    queries = _shaken(exact.reconstruct_batch(rows))
    expected = _without(_best(exact, queries, TUNED_K + 1), rows)
    for breadth in candidate.breadths:
        found = _without(_search(index, breadth, queries, TUNED_K + 1)[1], rows)
        recall = sum(len(one & other) for one, other in zip(expected, found, strict=True)) / sum(map(len, expected))
        if recall >= target:
            return Measured(candidate, breadth, recall, _seconds(exact, 0, queries) / _seconds(index, breadth, queries))
    return None


def _shaken(vectors: Vectors) -> Vectors:
    noise = np.random.default_rng(1).standard_normal(vectors.shape, dtype=np.float32)
    shaken = vectors + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(shaken / np.linalg.norm(shaken, axis=1, keepdims=True), np.float32)


def _without(answers: RowNumbers, own: RowNumbers) -> list[set[int]]:
    return [set([row for row in answer if row != mine][:TUNED_K]) for answer, mine in zip(answers.tolist(), own.tolist(), strict=True)]


def _seconds(index: Any, breadth: int, queries: Vectors) -> float:
    """Time of twenty single queries on one thread, as readers send them."""
    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    for query in queries[:20]:
        _search(index, breadth, query[None], TUNED_K)
    return time.perf_counter() - started
