from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.index.manifest import DeletesRef, FileRef, SegmentRef, sha256
from pipeline.index.merge import DEAD_SHARE, plan, plan_full, tier

FILE = FileRef(size=1, sha256=sha256(b""))
NUMBERS = itertools.count()


def segment(rows: int, dead: int = 0) -> SegmentRef:
    name = f"{next(NUMBERS):016x}"
    deletes = DeletesRef(name=f"deletes/00000001/{name}-{'0' * 12}", sha256=sha256(b"")) if dead else None
    live = rows - dead
    return SegmentRef(
        id=name, rows=rows, live_rows=live, documents=rows, live_documents=live, index_type="exact", recall=1.0,
        index=FILE, passages=FILE, deletes=deletes,
    )  # fmt: skip


def merge_all(segments: list[SegmentRef], factor: int) -> tuple[list[SegmentRef], int]:
    """Carry out plans until there are none; return the segments and how many rows were written."""
    written = 0
    while found := plan(segments, factor):
        place = next(i for i, one in enumerate(segments) if one.id in found.sources)
        segments = [one for one in segments if one.id not in found.sources]
        segments.insert(place, segment(found.rows))
        written += found.rows
    return segments, written


def bound(rows: int, factor: int) -> float:
    return factor * (math.log(max(rows, 1), factor) + 1)


def test_a_thousand_single_documents_are_rewritten_about_once_per_tier() -> None:
    # Given an index that receives one document at a time
    segments: list[SegmentRef] = []
    written = 0
    for rows in range(1, 1001):
        # When each publication is followed by the merges that are due
        segments, more = merge_all([*segments, segment(1)], 8)
        written += more
        # Then there are few segments
        assert len(segments) <= bound(rows, 8)
    # And no row was written more often than there are tiers
    assert written / 1000 <= math.log(1000, 8) + 1
    assert sum(one.live_rows for one in segments) == 1000


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.99)), max_size=60), st.integers(2, 10))
def test_whatever_is_published_segments_stay_few_and_no_row_is_lost(publications: list[tuple[int, float]], factor: int) -> None:
    segments: list[SegmentRef] = []
    for rows, share in publications:
        segments, _ = merge_all([*segments, segment(rows, int(rows * share))], factor)
        live = sum(one.live_rows for one in segments)
        assert len(segments) <= bound(live, factor)
    assert sum(one.live_rows for one in segments) == sum(rows - int(rows * share) for rows, share in publications)


def test_a_decayed_segment_goes_first() -> None:
    fresh = [segment(1) for _ in range(8)]
    decayed = segment(1000, 400)
    found = plan([decayed, *fresh], 8)
    assert found
    assert found.sources == (decayed.id,)
    assert found.rows == 600
    assert DEAD_SHARE < 0.4


def test_a_few_dead_rows_in_a_small_segment_are_left_alone() -> None:
    assert plan([segment(3, 2)], 8) is None


def test_sources_keep_their_order() -> None:
    segments = [segment(1) for _ in range(8)]
    found = plan(segments, 8)
    assert found
    assert found.sources == tuple(one.id for one in segments)


def test_a_rebuild_leaves_one_segment_without_dead_rows() -> None:
    assert plan_full([]) is None
    assert plan_full([segment(5)]) is None
    assert plan_full([segment(5, 1)])
    both = plan_full([segment(5), segment(7, 2)])
    assert both
    assert both.rows == 10


@given(st.integers(1, 10**9), st.integers(2, 16))
def test_a_tier_holds_what_is_at_least_a_power_of_the_factor(rows: int, factor: int) -> None:
    number = tier(rows, factor)
    assert factor**number <= rows < factor ** (number + 1)
