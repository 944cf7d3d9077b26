"""What it costs to keep segments few: how often each byte is written again, and a full rebuild against FAISS alone."""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import Row
from benchmarks.synthetic import DIMENSION, MILLION, PER_DOCUMENT, document, index, million, publish, rebuild, vectors
from pipeline.index import upkeep
from pipeline.index.ann import ALL_THREADS, TRAINING_POINTS, faiss
from pipeline.index.choice import candidates
from pipeline.index.documents import Vectors
from pipeline.index.manifest import Manifest, SegmentRef
from pipeline.index.snapshot import Snapshot
from pipeline.sinks.swap import Swap

PUBLICATIONS = 1000
FACTOR = 8
TIMES = 3
"""Rebuilds of a million; FAISS alone takes about a minute for each."""


def amplification() -> Iterator[Row]:
    """A thousand publications of one document each, and the merges that are due after each of them."""
    chance, drafts, merges, most = np.random.default_rng(8), [0, 0], [0, 0], 0
    with index(0) as (home, writer):
        for number in range(PUBLICATIONS):
            _count(drafts, publish(home, writer, [document(number, 1, chance)]).segments[-1])
            while plan := writer.plan_merge():
                before = {ref.id for ref in _current(writer.snapshot()).segments}
                manifest = writer.commit(plan, Swap(home).publish)
                assert manifest
                _count(merges, *(ref for ref in manifest.segments if ref.id not in before))
            most = max(most, len(_current(writer.snapshot()).segments))
    bound = math.log(PUBLICATIONS, FACTOR) + 1
    yield Row(f"bytes written per byte published, {PUBLICATIONS:,} times one", (drafts[0] + merges[0]) / drafts[0], "ratio", "<= 5.0")
    yield Row(
        f"rows written per row published, {PUBLICATIONS:,} times one", (drafts[1] + merges[1]) / drafts[1], "ratio", f"<= {bound:.2f}"
    )
    yield Row("segments meanwhile, at the most", most, "segments")


def _count(sums: list[int], *segments: SegmentRef) -> None:
    for ref in segments:
        sums[0] += ref.index.size + ref.passages.size
        sums[1] += ref.rows


def _current(snapshot: Snapshot | None) -> Manifest:
    assert snapshot
    return snapshot.manifest


def rebuilt() -> Iterator[Row]:
    """Everything into one segment (passages and documents too, tuned, verified and published), and the same lists by FAISS alone."""
    large = million()
    unmerged = Snapshot.open(large.home, large.home.load(large.unmerged))
    stored = np.concatenate([view.segment.vectors.vectors(0, view.segment.rows) for view in unmerged.views])
    ours, theirs = [large.seconds], []
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        for turn in range(TIMES):
            if turn:
                upkeep.rollback(large.home, large.unmerged)
                upkeep.resume(large.home)
                ours.append(rebuild(large.home, large.writer))
            seconds, index = _faiss_alone(stored, Path(folder) / "index.faiss")
            theirs.append(seconds)
    manifest = large.home.load(large.merged)  # later ones have documents that `stored` lacks
    queries = vectors(500, np.random.default_rng(9))
    expected = faiss.knn(queries, stored, 10, metric=faiss.METRIC_INNER_PRODUCT)[1]
    yield Row(f"rebuild of {MILLION:,} passages", statistics.median(ours), "s")
    yield Row(f"faiss alone, {MILLION:,} vectors", statistics.median(theirs), "s")
    yield Row("rebuild / faiss alone", statistics.median(ours) / statistics.median(theirs), "ratio", "<= 1.2")
    found = _rows(Snapshot.open(large.home, manifest), queries)
    yield Row("recall@10 after the rebuild", _recall(found, expected), "share", ">= 0.98")
    index.nprobe = manifest.segments[0].breadth
    yield Row(
        f"recall@10 of faiss alone at the same {index.nprobe} of {index.nlist} lists",
        _recall(index.search(queries, 10)[1], expected),
        "share",
    )
    del stored, index
    gc.collect()


def _faiss_alone(stored: Vectors, path: Path) -> tuple[float, faiss.Index]:
    """Train, add and write: the same type, lists, codes, training points and threads; no documents, no tuning, no fsync."""
    faiss.omp_set_num_threads(ALL_THREADS)
    lists = candidates(len(stored), 1)[0].lists
    half, inner = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    begin = time.perf_counter()
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(DIMENSION), DIMENSION, lists, half, inner, False)
    index.cp.max_points_per_centroid = TRAINING_POINTS
    index.train(stored[np.random.default_rng(0).permutation(len(stored))[: lists * TRAINING_POINTS]])
    index.add(stored)
    faiss.write_index(index, str(path))
    return time.perf_counter() - begin, index


def _rows(snapshot: Snapshot, queries: Vectors) -> np.ndarray:
    """Numbers of passages as `stored` counts them: documents are numbered as they were made, all of one length."""
    answers = snapshot.search(queries, 10)
    return np.array([[int(hit.uri[-12:-4]) * PER_DOCUMENT + hit.start // 300 for hit in answer] for answer in answers])


def _recall(found: np.ndarray, expected: np.ndarray) -> float:
    return sum(len(set(one) & set(other)) for one, other in zip(found.tolist(), expected.tolist(), strict=True)) / expected.size
