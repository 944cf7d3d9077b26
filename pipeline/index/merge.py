"""Which segments to merge next. Pure: references in, a plan out.

Tiers by live rows, so that every row is rewritten about once per tier: writing costs log(n) and not n. A segment that
is mostly dead goes first, because every search still pays for its dead rows. Order among segments means nothing (a
document is live in one segment only), but it is kept, so that plans are stable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.index.manifest import SegmentRef

DEAD_SHARE: Final = 0.3
"""Rewriting a segment at this share costs at most 2.4 rows per dead row."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Segments to merge into one. `rows` will be written."""

    sources: tuple[str, ...]
    rows: int
    reason: str


def plan(segments: Sequence[SegmentRef], factor: int) -> MergePlan | None:
    """The next merge worth doing, or None."""
    if decayed := [segment for segment in segments if _decayed(segment, factor)]:
        return _merge(decayed, "deletes")
    tiers: dict[int, list[SegmentRef]] = defaultdict(list)
    for segment in segments:
        tiers[tier(segment.live_rows, factor)].append(segment)
    for number in sorted(tiers):
        if len(tiers[number]) >= factor:
            return _merge(tiers[number], f"tier {number}")
    return None


def plan_full(segments: Sequence[SegmentRef]) -> MergePlan | None:
    """Everything into one segment without dead rows; None where it is so already."""
    if len(segments) > 1 or any(segment.deletes for segment in segments):
        return _merge(segments, "rebuild")
    return None


def tier(rows: int, factor: int) -> int:
    """⌊log_factor(rows)⌋, in whole numbers, so that a power of the factor never falls a tier short."""
    number = 0
    while rows >= factor:
        rows //= factor
        number += 1
    return number


def _decayed(segment: SegmentRef, factor: int) -> bool:
    """Fewer than `factor` dead rows cost nobody anything; the tiers take care of them."""
    dead = segment.rows - segment.live_rows
    return dead >= factor and dead > DEAD_SHARE * segment.rows


def _merge(segments: Sequence[SegmentRef], reason: str) -> MergePlan:
    return MergePlan(tuple(segment.id for segment in segments), sum(segment.live_rows for segment in segments), reason)
