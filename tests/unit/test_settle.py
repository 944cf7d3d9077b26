"""A file is at rest when neither its size nor its time has moved for long enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.settle import Settler


def test_a_file_that_rests_long_enough_is_due_once() -> None:
    settler = Settler(0.5)

    settler.observe("a", 10, 1, now=100.0)
    settler.observe("a", 10, 1, now=100.4)
    assert settler.due(100.4) == []

    assert settler.due(100.5) == ["a"]
    assert settler.due(200.0) == []
    assert len(settler) == 0


def test_growth_and_a_new_time_start_the_rest_anew() -> None:
    settler = Settler(0.5)
    settler.observe("grows", 10, 1, now=0.0)
    settler.observe("rewritten", 10, 1, now=0.0)

    settler.observe("grows", 11, 1, now=0.4)
    settler.observe("rewritten", 10, 2, now=0.4)

    assert settler.due(0.8) == []
    assert settler.due(0.9) == ["grows", "rewritten"]


def test_a_noted_file_is_never_due_before_somebody_looked() -> None:
    settler = Settler(0.5)

    settler.note("a")

    assert settler.moving() == ["a"]
    assert settler.due(1e9) == []


def test_noting_again_does_not_disturb_the_rest() -> None:
    settler = Settler(0.5)
    settler.observe("a", 1, 1, now=0.0)

    settler.note("a")

    assert settler.due(0.5) == ["a"]


def test_a_forgotten_file_is_not_due() -> None:
    settler = Settler(0.5)
    settler.observe("a", 1, 1, now=0.0)

    settler.forget("a")
    settler.forget("never heard of")

    assert not settler.tracks("a")
    assert settler.due(10.0) == []


def test_without_a_rest_the_first_look_is_enough() -> None:
    settler = Settler(0.0)

    settler.observe("a", 1, 1, now=3.0)

    assert settler.due(3.0) == ["a"]


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(0, 2)), min_size=1, max_size=30))
def test_due_means_that_every_look_within_the_rest_saw_the_same(looks: list[tuple[float, int]]) -> None:
    settler, now, history = Settler(1.0), 0.0, list[tuple[float, int]]()

    for pause, size in looks:
        now += pause
        settler.observe("a", size, 0, now)
        history.append((now, size))
        if settler.due(now):
            since = next(at for at, seen in history if all(later == seen for when, later in history if when >= at))
            assert now - since >= 1.0
            history.clear()
