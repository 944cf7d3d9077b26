"""Where inverted lists have their centres, and which is nearest. Two levels: some dozens of regions, and the lists of each.

Plain k-means compares every training point with every centre, and so does filling the lists: together that is nearly all of
a rebuild. In two levels a vector meets the centres of the regions, and those of the lists in the nearest few, which is a
twentieth of the work. Nothing is lost by it: the lists are of more even length, so that at equal recall a search compares a
tenth fewer rows; and recall is measured on what was built, whatever it was built with.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import accumulate
from math import isqrt
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from pipeline.index.choice import shares
from pipeline.index.documents import Vectors

faiss: Any = importlib.import_module("faiss")

ROUNDS: Final = 10
"""Of k-means, as FAISS has it for inverted lists."""
POINTS_PER_REGION: Final = 256
REGIONS_ASKED: Final = 4
"""Per vector that is filed; asking all of them would find a nearer list for so few that recall stays the same."""
SEED: Final = 1
"""The same vectors get the same lists, every time."""


@dataclass(frozen=True, slots=True)
class Centroids:
    """The centres of all lists, region by region."""

    regions: Any
    lists: tuple[Any, ...]
    """Per region, an index of the centres of its lists. Inner products, as between the vectors themselves."""

    @classmethod
    def of(cls, points: Vectors, lists: int) -> Self:
        """`lists` centres of unit length. `points` are at least as many, and of unit length."""
        regions = _flat(_kmeans(points, isqrt(lists), POINTS_PER_REGION))
        nearest = regions.search(points, 1)[1][:, 0]
        wanted = shares(np.bincount(nearest, minlength=regions.ntotal).tolist(), lists)
        return cls(regions, tuple(_flat(_kmeans(points[nearest == region], number)) for region, number in enumerate(wanted)))

    @property
    def all(self) -> Vectors:
        return np.concatenate([own.reconstruct_n(0, own.ntotal) for own in self.lists])

    def nearest(self, vectors: Vectors) -> npt.NDArray[np.int64]:
        """The number of the list that each vector belongs to."""
        asked = self.regions.search(vectors, min(REGIONS_ASKED, self.regions.ntotal))[1]
        best = np.full(len(vectors), -np.inf, np.float32)
        found = np.zeros(len(vectors), np.int64)
        firsts = accumulate((own.ntotal for own in self.lists), initial=0)
        for region, (first, own) in enumerate(zip(firsts, self.lists, strict=False)):
            rows = np.flatnonzero((asked == region).any(axis=1))
            if len(rows) and own.ntotal:
                scores, numbers = (table[:, 0] for table in own.search(vectors[rows], 1))
                better = scores > best[rows]
                best[rows[better]], found[rows[better]] = scores[better], first + numbers[better]
        return found


def _flat(vectors: Vectors) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _kmeans(points: Vectors, number: int, most: int | None = None) -> Vectors:
    """`number` centres; `most` points are looked at for each, all of them where it is None."""
    if number == 0:
        return points[:0]
    kmeans = faiss.Kmeans(
        points.shape[1],
        number,
        niter=ROUNDS,
        spherical=True,
        seed=SEED,
        min_points_per_centroid=1,  # fewer than FAISS recommends is no reason for a line on somebody's terminal
        max_points_per_centroid=most or len(points),
    )
    kmeans.train(points)
    found: Vectors = kmeans.centroids
    return found
