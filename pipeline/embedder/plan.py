"""Which texts are computed together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def batches(tokens: Sequence[int] | NDArray[np.intp], budget: int) -> Iterator[NDArray[np.intp]]:
    """Rows to compute together: alike in length, and padded to the longest no more than `budget` tokens.

    Sorted by tokens, 2 to 4 % of the work is padding; sorted by characters, 30 to 120 %. Longest first, so that a batch
    too large for the memory fails at once. A text longer than the budget goes alone.
    """
    counts = np.asarray(tokens, np.int64)
    order = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(order):
        end = start + max(1, budget // max(1, int(counts[order[start]])))
        yield order[start:end]
        start = end
