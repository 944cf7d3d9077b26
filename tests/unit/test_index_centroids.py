"""Lists in two levels: as many as asked for, and a vector lies in the nearest, or in one as good."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.index.centroids import Centroids

LISTS = 50


def clustered(rows: int, clusters: int) -> np.ndarray:
    random = np.random.default_rng(3)
    centres = random.standard_normal((clusters, 24))
    vectors = centres[random.integers(0, clusters, rows)] + 0.5 * random.standard_normal((rows, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("clusters", [1, 3, 400], ids=["one heap", "few heaps", "many heaps"])
def test_there_are_as_many_lists_as_asked_for_and_their_centres_have_length_one(clusters: int) -> None:
    found = Centroids.of(clustered(3000, clusters), LISTS)
    assert found.all.shape == (LISTS, 24)
    np.testing.assert_allclose(np.linalg.norm(found.all, axis=1), 1, atol=1e-4)


def test_a_vector_goes_to_the_nearest_list_or_one_nearly_as_near() -> None:
    # Given vectors that the centres were not made from
    vectors = clustered(6000, 100)
    found = Centroids.of(vectors[::2], LISTS)
    # When they are filed
    numbers = found.nearest(vectors[1::2])
    # Then asking the nearest regions only misses few of the nearest lists, and those by little
    scores = vectors[1::2] @ found.all.T
    own = scores[np.arange(len(numbers)), numbers]
    assert (numbers == scores.argmax(axis=1)).mean() > 0.95
    assert (scores.max(axis=1) - own).mean() < 0.01


@pytest.mark.parametrize("lists", [1, 2, 5])
def test_as_few_points_as_lists_are_enough(lists: int) -> None:
    points = np.eye(5, 24, dtype=np.float32)[:lists]
    found = Centroids.of(points, lists)
    assert len(found.all) == lists
    assert set(found.nearest(points).tolist()) <= set(range(lists))


def test_equal_points_make_lists_all_the_same() -> None:
    points = np.tile(np.eye(1, 24, dtype=np.float32), (100, 1))
    found = Centroids.of(points, 10)
    assert np.isfinite(found.all).all()
    assert len(found.all) == 10


def test_the_same_points_make_the_same_lists() -> None:
    points = clustered(2000, 30)
    np.testing.assert_array_equal(Centroids.of(points, LISTS).all, Centroids.of(points, LISTS).all)
