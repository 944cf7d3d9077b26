from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.index.choice import Candidate, Measured, best, candidates, settled, shares, urgency

IVF, HNSW = Candidate("ivf", (8,), 10), Candidate("hnsw", (32,))


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_small_is_exact_and_large_tries_lists_before_a_graph(rows: int, exact_rows: int) -> None:
    found = candidates(rows, exact_rows)
    assert [candidate.index_type for candidate in found] == ([] if rows <= exact_rows else ["ivf", "hnsw"])
    for candidate in found:
        assert candidate.breadths
        assert list(candidate.breadths) == sorted(candidate.breadths)
    if found:
        assert 1 <= found[0].lists <= rows


def test_lists_follow_the_square_root() -> None:
    assert candidates(1_000_000, 200_000)[0].lists == 4000


def test_the_fastest_that_reached_the_target_wins() -> None:
    slow, fast = Measured(IVF, 8, 0.99, 2.0), Measured(HNSW, 64, 0.98, 3.0)
    assert best([slow, fast]) is fast


def test_what_is_slower_than_exact_search_never_wins() -> None:
    assert best([Measured(IVF, 8, 0.99, 0.9)]) is None
    assert best([]) is None


def test_a_graph_is_built_only_where_lists_are_not_good_enough() -> None:
    assert settled([Measured(IVF, 8, 0.99, 5.0)])
    assert not settled([Measured(IVF, 8, 0.99, 1.5)])


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any), st.data())
def test_shares_are_proportional_and_never_more_than_there_is(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(1, sum(counts)))
    found = shares(counts, total)
    assert sum(found) == total
    for count, share in zip(counts, found, strict=True):
        assert 0 <= share <= count
        assert abs(share - count * total / sum(counts)) < 1


def test_urgency_is_one_when_exact_search_is_outgrown() -> None:
    assert urgency(0, 100) == 0
    assert urgency(100, 100) == 1
    assert urgency(300, 100) == 3
