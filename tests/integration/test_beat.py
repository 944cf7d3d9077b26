"""Two schedulers, one lease: exactly one fires, the other takes over, and no restart forgets or doubles a tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as RedisAway

from pipeline.base.settings import Settings
from pipeline.context import Context
from pipeline.tasks import beat as beat_module
from pipeline.tasks.app import make_app
from pipeline.tasks.beat import WAIT_SECONDS, SingleScheduler
from tests.support import broker_of


class Clock:
    """The time of every scheduler, moved by the test."""

    def __init__(self, app: Celery) -> None:
        self.now = app.now()

    def passes(self, **period: float) -> None:
        self.now += timedelta(**period)


class Recording(SingleScheduler):
    """Writes down what it sends."""

    name = ""
    sent: list[tuple[str, str]]

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        self.sent.append((self.name, entry.name))

    def run(self) -> list[str]:
        """Tick until nothing is due. Returns what was sent."""
        before = len(self.sent)
        for _ in range(50):
            if self.tick() > 0:
                break
        return sorted(name for _, name in self.sent[before:])


@pytest.fixture
def context(valkey: str, redis_client: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    context = Context(Settings(broker=broker_of(valkey), model="hash:8", state=tmp_path))
    monkeypatch.setattr(beat_module, "current", lambda: context)
    yield context
    context.redis.close()


@pytest.fixture
def clock(context: Context, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(make_app(context.settings))
    monkeypatch.setattr(Celery, "now", lambda _: clock.now)
    monkeypatch.setattr("celery.beat.Scheduler._when", lambda _, entry, delay, **__: _due(clock.now, entry, delay))
    return clock


def _due(now: datetime, entry: Any, delay: float | None) -> float:
    return now.timestamp() + (delay or 0)


@pytest.fixture
def start(context: Context, clock: Clock) -> Callable[[str], Recording]:
    sent: list[tuple[str, str]] = []

    def begin(name: str) -> Recording:
        scheduler = Recording(app=make_app(context.settings))
        scheduler.name, scheduler.sent = name, sent
        return scheduler

    return begin


EVERYTHING = ["build", "cleanup", "rebuild", "reconcile", "statistics"]


def test_nothing_fires_before_its_first_period_is_over(start: Callable[[str], Recording], clock: Clock) -> None:
    one = start("one")
    assert one.run() == []
    clock.passes(seconds=61)
    assert one.run() == ["build"]
    clock.passes(minutes=5)
    assert one.run() == ["build", "statistics"]
    clock.passes(days=1)
    assert one.run() == EVERYTHING
    assert one.run() == []


def test_of_two_only_one_fires(start: Callable[[str], Recording], clock: Clock) -> None:
    one, two = start("one"), start("two")
    one.run()
    assert two.tick() == WAIT_SECONDS
    for _ in range(4):
        clock.passes(seconds=61)
        assert two.run() == []
        assert one.run() == ["build"]
    assert {name for name, _ in one.sent} == {"one"}


def test_the_other_takes_over_and_repeats_nothing(start: Callable[[str], Recording], clock: Clock, context: Context) -> None:
    one, two = start("one"), start("two")
    one.run()
    two.run()
    clock.passes(hours=1, seconds=1)
    one.run()
    one.close()
    assert two.run() == []  # its own clock says that an hour has passed, but it knows what was sent
    clock.passes(seconds=61)
    assert two.run() == ["build"]


def test_it_takes_over_from_one_that_was_killed(start: Callable[[str], Recording], clock: Clock, context: Context) -> None:
    one, two = start("one"), start("two")
    one.run()
    clock.passes(seconds=61)
    assert two.run() == []
    context.redis.delete(f"{context.settings.namespace}:beat")  # as it expires
    assert two.run() == ["build"]
    assert one.run() == []


def test_missed_periods_are_caught_up_once(start: Callable[[str], Recording], clock: Clock) -> None:
    one = start("one")
    one.run()
    one.close()
    clock.passes(days=3)
    two = start("two")
    assert two.run() == EVERYTHING
    assert two.run() == []


def test_one_that_restarts_more_often_than_the_period_still_fires(start: Callable[[str], Recording], clock: Clock) -> None:
    fired: list[str] = []
    for _ in range(8):
        one = start("one")
        fired += one.run()
        one.close()
        clock.passes(minutes=10)
    assert fired.count("rebuild") == 1
    assert fired.count("statistics") == 7


def test_a_period_that_was_changed_counts_from_the_last_tick(
    start: Callable[[str], Recording], clock: Clock, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start("one")
    one.run()
    one.close()
    clock.passes(minutes=20)
    context.settings = context.settings.model_copy(update={"rebuild_every": 900.0})
    assert "rebuild" in start("two").run()


def test_a_server_that_is_away_is_waited_for(start: Callable[[str], Recording], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    one = start("one")
    one.run()
    clock.passes(seconds=61)

    def away(*_: object) -> bool:
        raise RedisAway("gone")

    with monkeypatch.context() as patch:
        patch.setattr(one._lease, "renew", away)
        assert one.tick() == WAIT_SECONDS
    assert one.run() == ["build"]


def test_a_tick_that_could_not_be_remembered_is_made_up_for(
    start: Callable[[str], Recording], clock: Clock, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start("one")
    one.run()
    clock.passes(hours=1, seconds=1)

    hset = context.redis.hset

    def away(name: str, *args: Any, **more: Any) -> Any:
        if name == one._ran:
            raise RedisAway("gone")
        return hset(name, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(context.redis, "hset", away)
        assert one.tick() == WAIT_SECONDS
    assert one.run() == ["build", "rebuild", "reconcile", "statistics"]
