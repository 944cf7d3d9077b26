"""Indexes that have outgrown exact search: what was measured is what they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_support import Index

from pipeline.base.errors import CorruptIndex
from pipeline.index import ann
from pipeline.index.ann import Builder, VectorIndex
from pipeline.index.choice import Candidate

ROWS, DIMENSION = 4000, 32


def clustered(rows: int, seed: int) -> np.ndarray:
    """Vectors in clusters, as texts are; uniform ones have no neighbours worth finding."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, DIMENSION))
    vectors = centres[random.integers(0, 40, rows)] + 0.7 * random.standard_normal((rows, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = clustered(ROWS, 1)
QUERIES = clustered(50, 2)


def build(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, target: float = 0.95) -> VectorIndex:
    """Force one kind by offering only that, and by taking whatever reaches the target however slow it is at this size."""
    offered = {"exact": (), "ivf": (Candidate("ivf", (4, 8, 16, 32, 64), 64),), "hnsw": (Candidate("hnsw", (16, 64, 256)),)}[kind]
    monkeypatch.setattr(ann, "candidates", lambda rows, exact_rows: offered)
    monkeypatch.setattr(ann, "best", lambda measured: measured[0] if measured else None)
    builder = Builder()
    for block in np.array_split(VECTORS, 7):
        builder.add(block)
    built = builder.write(path / "index.faiss", exact_rows=1, target_recall=target)
    assert built.index_type == kind
    assert built.recall >= target
    return VectorIndex(path / "index.faiss", built.index_type, built.breadth)


def exact(queries: np.ndarray, k: int, alive: np.ndarray | None = None) -> np.ndarray:
    scores = queries @ VECTORS.T
    if alive is not None:
        scores[:, ~alive] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found.tolist(), expected.tolist(), strict=True)]))


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_recall_is_what_the_manifest_will_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    index = build(tmp_path, monkeypatch, kind)
    assert recall(index.search(QUERIES, 10)[1], exact(QUERIES, 10)) >= 0.9


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
@pytest.mark.parametrize("share", [0.7, 0.2, 0.02, 0.002, 0.0])
def test_a_filter_leaves_recall_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: float) -> None:
    index = build(tmp_path, monkeypatch, kind)
    alive = np.random.default_rng(3).random(ROWS) < share
    _, found = index.search(QUERIES, 10, alive)
    expected = exact(QUERIES, min(10, int(alive.sum())), alive)
    assert found.shape == expected.shape
    assert alive[found[found >= 0]].all()
    if share:
        assert recall(found, expected) >= 0.9


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw"])
def test_vectors_come_out_as_they_went_in_whatever_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    index = build(tmp_path, monkeypatch, kind)
    rows = np.array([3999, 0, 17, 2048])
    np.testing.assert_array_equal(index.vectors_of(rows), VECTORS[rows].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(index.vectors(5, 3), VECTORS[5:8].astype(np.float16).astype(np.float32))


def test_where_no_candidate_reaches_the_target_search_stays_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "candidates", lambda rows, exact_rows: (Candidate("ivf", (1,), 64),))
    builder = Builder()
    builder.add(VECTORS)
    assert builder.write(tmp_path / "index.faiss", exact_rows=1, target_recall=1.0) == ann.Built("exact", 1.0, 0)


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        ({"IndexIVF": 2.0, "IndexHNSW": 2.0}, "exact"),
        ({"IndexIVF": 0.1, "IndexHNSW": 0.01}, "ivf"),
        ({"IndexIVF": 0.5, "IndexHNSW": 0.3}, "hnsw"),
    ],
    ids=["nothing is faster", "lists are fast enough", "the graph is faster"],
)
def test_the_fastest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], kind: str) -> None:
    # Given times per query as they were measured, exact search taking one second
    def measured(index: object, breadth: int, queries: np.ndarray) -> float:
        return next((time for name, time in seconds.items() if type(index).__name__.startswith(name)), 1.0)

    monkeypatch.setattr(ann, "_seconds", measured)
    builder = Builder()
    builder.add(VECTORS)
    # When a segment above the limit is written
    built = builder.write(tmp_path / "index.faiss", exact_rows=1000, target_recall=0.9)
    # Then
    assert built.index_type == kind
    assert VectorIndex(tmp_path / "index.faiss", built.index_type, built.breadth).rows == ROWS


def test_an_index_grows_out_of_exact_search_and_stays_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an index whose segments are merged into one that is no longer exact
    monkeypatch.setattr(ann, "best", lambda measured: measured[0] if measured else None)
    index = Index(tmp_path, {"exact_rows": 600, "target_recall": 0.9})
    index.publish(*(index.add(f"{n:04d}", f"word {n}") for n in range(250)))
    index.publish(*(index.add(f"{n:04d}", f"word {n}") for n in range(200, 500)))
    plan = index.writer.plan_rebuild()
    assert plan
    manifest = index.writer.commit(plan, index.swap.publish)
    assert manifest
    [ref] = manifest.segments
    assert ref.index_type != "exact"
    assert ref.recall >= 0.9
    assert ref.breadth > 0
    # When documents are copied out of it, and it is merged again
    index.publish(index.copy("copy", "word 123"), index.remove("0123"))
    plan = index.writer.plan_rebuild()
    assert plan
    assert index.writer.commit(plan, index.swap.publish)
    # Then everything is still there
    assert index.words() == {f"{n:04d}": f"word {n}" for n in range(500) if n != 123} | {"copy": "word 123"}


@pytest.mark.parametrize("content", [b"", b"IxSQ", b"\0" * 100])
def test_what_is_no_index_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.faiss").write_bytes(content)
    with pytest.raises(CorruptIndex):
        VectorIndex(tmp_path / "index.faiss", "exact", 0)
