"""A few histories of each kind, so that the suite stays alive; `make faults` runs all of them."""

from __future__ import annotations

import pytest

from tests.faults.lanes import Plan, Runner, plan
from tests.faults.stack import Stack


@pytest.mark.parametrize("lane", ["folder", "bucket"])
def test_nothing_is_violated(lane: str) -> None:
    seeds = [seed for seed in range(1, 200) if plan(seed).lane == lane][: {"folder": 20, "bucket": 2}[lane]]
    with Runner(lane) as runner:
        for outcome in map(runner.run, map(plan, seeds)):
            assert outcome.violations == [], outcome.plan
            assert outcome.generations
            assert outcome.asked


def test_no_kill_is_noticed() -> None:
    faults = ("SIGKILL embedding worker", "SIGKILL Valkey, data lost", "SIGKILL watcher")
    with Runner("stack") as runner:
        outcome = runner.run(Plan(1, "stack", faults))
        assert outcome.violations == []
        assert outcome.hits == dict.fromkeys(faults, 1)
        assert isinstance(runner.stack, Stack)
        assert runner.end() == []
