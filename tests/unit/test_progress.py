"""What is going on, how fast, and for how long yet: pure answers to what the watchers told and the ledger counts."""

from __future__ import annotations

import pytest

from pipeline.ledger.progress import STAGES, Progress, Rate, Situation, eta, stage

EVERYBODY = ("beat@a", "embedding-1@a", "indexing@a", "maintenance@a", "watch@a")
QUIET = Situation(EVERYBODY, noticed=0, settled=0, progress=Progress(), building=False, merging=False, held=False)


class TestStage:
    @pytest.mark.parametrize(
        ("now", "expected"),
        [
            (QUIET, "idle"),
            (QUIET._replace(merging=True), "merging"),
            (QUIET._replace(progress=Progress(listing=True)), "listing"),
            (QUIET._replace(settled=1), "indexing"),
            (QUIET._replace(building=True), "indexing"),
            (QUIET._replace(settled=1, held=True), "held"),
            (QUIET._replace(held=True), "idle"),
            (QUIET._replace(noticed=1), "embedding"),
            (QUIET._replace(progress=Progress(waiting=1)), "embedding"),
            (QUIET._replace(noticed=1, settled=1, building=True, merging=True, held=True, progress=Progress(1, listing=True)), "embedding"),
        ],
    )
    def test_the_first_in_the_path_of_a_document(self, now: Situation, expected: str) -> None:
        assert stage(now) == expected
        assert expected in STAGES

    @pytest.mark.parametrize(
        ("missing", "now"),
        [
            ("embedding", QUIET._replace(noticed=1)),
            ("embedding", QUIET._replace(progress=Progress(waiting=1))),
            ("indexing", QUIET._replace(settled=1)),
        ],
    )
    def test_nobody_is_up_who_would_take_the_next_step(self, missing: str, now: Situation) -> None:
        assert stage(now._replace(alive=[name for name in EVERYBODY if missing not in name])) == "waiting"
        assert stage(now._replace(alive=["embedding-indexing-maintenance@a"])) != "waiting"  # a worker for all queues

    def test_a_build_by_hand_needs_no_worker(self) -> None:
        assert stage(QUIET._replace(alive=[], settled=1, building=True)) == "indexing"


class TestEta:
    def test_what_waits_at_the_speed_of_lately(self) -> None:
        assert eta(QUIET._replace(noticed=30, progress=Progress(waiting=70, rate=20.0))) == 5.0

    @pytest.mark.parametrize(
        "now",
        [
            QUIET._replace(progress=Progress(rate=20.0)),
            QUIET._replace(settled=5, progress=Progress(rate=20.0)),
            QUIET._replace(noticed=30),
            QUIET._replace(noticed=30, progress=Progress(waiting=70, listing=True, rate=20.0)),
        ],
        ids=["nothing waits to be looked at", "only a build is missing", "nothing was measured", "a listing finds more"],
    )
    def test_nobody_knows(self, now: Situation) -> None:
        assert eta(now) is None


class TestRate:
    def test_growth_over_the_last_looks(self) -> None:
        rate = Rate(3)
        assert [rate.of(total, now) for now, total in enumerate([0, 10, 20, 60])] == [0.0, 10.0, 10.0, 25.0]

    def test_a_total_that_begins_anew(self) -> None:
        rate = Rate(10)
        assert [rate.of(total, now) for now, total in enumerate([500, 510, 0, 20])] == [0.0, 10.0, 0.0, 20.0]

    def test_what_was_before_a_rest_does_not_count(self) -> None:
        rate = Rate(10)
        rate.of(0, 0)
        rate.of(100, 1)
        rate.forget()
        assert rate.of(100, 50) == 0.0
        assert rate.of(130, 51) == 30.0

    def test_two_looks_at_the_same_moment(self) -> None:
        rate = Rate(10)
        assert rate.of(1, 5) == rate.of(2, 5) == 0.0


class TestTold:
    def test_it_is_read_as_it_was_told(self) -> None:
        progress = Progress(7, True, 2.5)
        assert Progress.from_json(progress.to_json()) == progress
        assert Progress.from_json("") == Progress()

    def test_several_watchers_wait_for_the_same_workers(self) -> None:
        assert Progress.of_all([Progress(1, False, 10.0), Progress(2, True, 11.0)]) == Progress(3, True, 11.0)
        assert Progress.of_all([]) == Progress()
