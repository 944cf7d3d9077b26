"""Which kind of FAISS index a segment of n rows may have. Pure: sizes in, candidates out; measuring is `ann`'s.

Exact float16 search while it is fast enough. Above that, rules of thumb (nlist = 4√n, nprobe 10 to 32) reach 0.85 to
0.90 recall on real text and not the 0.97 they promise, so a candidate carries a ladder of breadths and is tuned on a
sample. Inverted lists come first, because they are built ten times faster than a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final, Literal

POINTS_PER_LIST: Final = 39
"""FAISS asks for this many training points per inverted list; fewer lists then, rather than poor ones."""
GRAPH_DEGREE: Final = 32
GRAPH_BREADTHS: Final = (32, 64, 128, 256, 512)
WORTH: Final = 4.0
"""A candidate this many times faster than exact search is good enough to not try the next one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An index type worth trying. `breadths` are values of nprobe or efSearch, ascending."""

    index_type: Literal["ivf", "hnsw"]
    breadths: tuple[int, ...]
    lists: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one candidate reached at the smallest breadth that reached the target."""

    candidate: Candidate
    breadth: int
    recall: float
    speedup: float
    """How many times faster than exact search of the same rows."""


def candidates(rows: int, exact_rows: int) -> tuple[Candidate, ...]:
    """In the order in which they should be tried; none while exact search is fast enough."""
    if rows <= exact_rows:
        return ()
    lists = max(1, min(4 * isqrt(rows), rows // POINTS_PER_LIST))
    probes = tuple(2**power for power in range(3, 12) if 2**power <= max(8, lists // 2))
    return (Candidate("ivf", probes, lists), Candidate("hnsw", GRAPH_BREADTHS))


def shares(counts: Sequence[int], total: int) -> list[int]:
    """`total` divided in proportion to `counts` (which are `total` or more together), nobody getting more than it counts."""
    whole = sum(counts)
    found = [count * total // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda place: counts[place] * total % whole, reverse=True)
    for place in by_remainder[: total - sum(found)]:
        found[place] += 1
    return found


def settled(measured: Sequence[Measured]) -> bool:
    """Whether one of them is so good that the remaining candidates need not be built."""
    return any(one.speedup >= WORTH for one in measured)


def best(measured: Sequence[Measured]) -> Measured | None:
    """The fastest of those that reached the target, if it beats exact search; else None: stay exact."""
    return max((one for one in measured if one.speedup > 1), key=lambda one: one.speedup, default=None)


def urgency(rows: int, exact_rows: int) -> float:
    """How near an index is to outgrowing exact search: 0 when empty, 1 when it does, more beyond."""
    return rows / exact_rows
