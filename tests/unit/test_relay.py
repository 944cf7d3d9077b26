"""The relay with a real ledger, a source that follows a script, and workers that work when the test says so."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisAway

from pipeline.base.errors import ConfigurationError, DropdexError, TooManyRemovals, Unavailable
from pipeline.base.model import Content, DeadLetter, Delivery, DocumentEvent, Entry, Listed, Origin, Overflow, State, Unchanged
from pipeline.base.settings import Settings
from pipeline.ledger import ledger as ledger_module
from pipeline.ledger import progress as progress_module
from pipeline.ledger.ledger import Ledger, Outcome
from pipeline.ledger.progress import Progress
from pipeline.relay import loop as relay_module
from pipeline.relay.loop import FIRST_BATCH, Relay, batch_size
from pipeline.relay.reconcile import DUE
from tests.support import wait_until

CALM = 0.3
"""Seconds in which something would happen if it happened at all."""


class ScriptedSource:
    """Lists what it is told to, and its watch says what the test puts into it."""

    def __init__(self, root: str = "file:///in/") -> None:
        self.root = root
        self.documents: dict[str, str] = {}
        self.script: queue.Queue[Delivery | Overflow | Exception] = queue.Queue()
        self.acks: list[str] = []
        self.released: list[str] = []
        self.listing_breaks: Exception | None = None
        self.listings = 0
        self.may_list = Event()
        self.may_list.set()

    def check(self) -> None: ...

    def list(self, prefix: str = "") -> Iterator[Listed]:
        self.listings += 1
        assert self.may_list.wait(30)
        for uri in sorted(self.documents):
            if uri.startswith(prefix or self.root):
                yield Listed(uri, self.documents[uri], 1)
        if self.listing_breaks:
            raise self.listing_breaks

    def read(self, uri: str, known_version: str = "") -> Content | Unchanged | None:
        raise NotImplementedError

    def watch(self, stop: Event) -> Iterator[Delivery | Overflow]:
        yield Delivery(())
        while not stop.is_set():
            try:
                item = self.script.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            yield item

    def uri(self, name: str) -> str:
        return self.root + name

    def list_only(self, *names: str) -> None:
        """Documents that are there and that no event tells of."""
        self.documents |= {self.uri(name): "1" for name in names}

    def drop(self, *names: str) -> None:
        """Documents and one delivery that tells of all of them."""
        self.list_only(*names)
        label = "+".join(names)
        events = tuple(DocumentEvent(self.uri(name)) for name in names)
        self.script.put(Delivery(events, ack=lambda: self.acks.append(label), release=lambda: self.released.append(label)))


class FakeFlow:
    """Takes the hand-overs down. `breaks` are raised by the next ones."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[str]]] = []
        self.builds = 0
        self.breaks: list[Exception] = []
        self._lock = Lock()

    def hand_over(self, batches: Iterable[Sequence[str]], origin: Origin) -> None:
        with self._lock:
            if self.breaks:
                raise self.breaks.pop(0)
            self.batches += [(origin.value, [uri.rpartition("/")[2] for uri in batch]) for batch in batches]

    def request_build(self) -> None:
        self.builds += 1

    @property
    def names(self) -> list[str]:
        return [name for _, batch in list(self.batches) for name in batch]


class Stand:
    """A relay in a thread, and the workers' side of the ledger."""

    def __init__(self, redis: Redis, sources: Sequence[ScriptedSource], **settings: Any) -> None:
        self.redis = redis
        self.sources = sources
        self.source = sources[0]
        self.ledger = Ledger(redis, "test")
        self.flow = FakeFlow()
        self.published: list[Entry] = []
        self.seed_breaks: list[Exception] = []
        self.seeds = 0
        self.restored = False
        """Somebody puts another index in the place of ours: seeding notices that, and nothing else does."""
        self.relay = Relay(sources, Ledger(redis, "test"), self.flow, self.seed, Settings(**settings))
        self.error: BaseException | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def seed(self) -> str:
        if self.seed_breaks:
            raise self.seed_breaks.pop(0)
        if self.restored:
            self.restored = False
            self.ledger.clear()
        epoch = self.ledger.epoch()
        if not epoch:
            self.seeds += 1
            epoch = self.ledger.seed(self.published)
        return epoch

    def _run(self) -> None:
        try:
            self.relay.run(self._stop)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def ended(self) -> BaseException:
        self._thread.join(30)
        assert self.error
        return self.error

    def listed(self) -> None:
        """Wait until the first listing is over and nothing differs."""
        wait_until(lambda: self.ledger.noted("reconciled"), "the first listing")

    def look(self, *names: str) -> None:
        """A worker looks at the documents and settles what the source holds."""
        look = self.ledger.begin([self.source.uri(name) for name in names])
        self.ledger.settle(look, [Outcome(self.entry(claim.uri, look.stamp)) for claim in look.claimed])

    def entry(self, uri: str, stamp: int) -> Entry:
        versions = {uri: version for source in self.sources for uri, version in source.documents.items()}
        if uri not in versions:
            return Entry(uri, State.REMOVED, stamp)
        return Entry(uri, State.PRESENT, stamp, version=versions[uri], content_hash=uri, shard="s")

    def build(self) -> None:
        entries = self.ledger.settled(10_000)
        self.ledger.published(self.ledger.epoch(), 1, entries)
        self.published = [e for e in {e.uri: e for e in (*self.published, *entries)}.values() if e.state is State.PRESENT]

    def work(self, *names: str) -> None:
        self.look(*names)
        self.build()

    def awaits(self, *names: str, times: int = 1) -> None:
        """Wait until each of these was handed over so often."""
        wait_until(lambda: all(self.flow.names.count(name) >= times for name in names), lambda: f"{names}; so far {self.flow.batches}", 30)


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
def start(redis_client: Redis, source: ScriptedSource) -> Iterator[Callable[..., Stand]]:
    stands: list[Stand] = []

    def begin(*others: ScriptedSource, **settings: Any) -> Stand:
        stands.append(Stand(redis_client, [source, *others], **settings).__enter__())
        if not source.documents and not source.listing_breaks and not others:
            stands[-1].listed()  # else it might find what the test drops before the watch tells of it
        return stands[-1]

    yield begin
    for stand in stands:
        stand.stop()


def test_a_batch_is_so_much_work() -> None:
    assert batch_size(0, 0.5, 2000) == FIRST_BATCH
    assert batch_size(100, 0.5, 2000) == 50
    assert batch_size(100_000, 0.5, 2000) == 2000
    assert batch_size(0.1, 0.5, 2000) == 1


class TestHandOver:
    def test_an_idle_relay_hands_over_at_once(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        assert stand.flow.batches == [("live", ["a"])]

    def test_a_busy_one_makes_a_batch_of_what_arrives_meanwhile(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        # Given as many batches in flight as there may be
        stand = start(inflight_batches=2)
        for name in ("a", "b", "c"):
            source.drop(name)
            stand.awaits(name)
        # When more arrive
        for number in range(5):
            source.drop(f"m{number}")
        time.sleep(CALM)
        # Then they wait, and go together as soon as there is room
        assert len(stand.flow.batches) == 3
        stand.work("a")
        stand.awaits("m4")
        assert stand.flow.batches[3] == ("live", [f"m{number}" for number in range(5)])

    def test_live_events_go_before_the_backlog_and_have_a_place_of_their_own(
        self, start: Callable[..., Stand], source: ScriptedSource
    ) -> None:
        source.list_only(*(f"old{number:04}" for number in range(500)))
        stand = start(inflight_batches=2)
        wait_until(lambda: len(stand.flow.batches) >= 2, "the backfill")
        time.sleep(CALM)
        assert [origin for origin, _ in stand.flow.batches] == ["backfill"] * 2  # and no more than that in flight

        source.drop("new")
        stand.awaits("new")

        assert stand.flow.batches[2] == ("live", ["new"])

    def test_each_worker_has_its_batches(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        source.list_only(*(f"{number:04}" for number in range(FIRST_BATCH * 20)))
        stand = start(inflight_batches=1, workers=3)
        wait_until(lambda: len(stand.flow.batches) >= 3, "the backfill")
        time.sleep(CALM)
        assert len(stand.flow.batches) == 3

    def test_the_measured_rate_sizes_the_batches(self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis) -> None:
        ledger = Ledger(redis_client, "test")
        ledger.seed([])
        ledger.note("rate", "100")
        source.list_only(*(f"{number:04}" for number in range(1000)))
        stand = start(backfill_batch_seconds=1.5, live_batch_seconds=0.2, inflight_batches=2)
        wait_until(lambda: len(stand.flow.batches) >= 2, "the backfill")
        source.drop(*(f"n{number:02}" for number in range(30)))
        wait_until(lambda: len(stand.flow.batches) >= 3, "the live events")

        assert [(origin, len(batch)) for origin, batch in stand.flow.batches[1:]] == [("backfill", 150), ("live", 20)]

    def test_a_flood_of_live_events_goes_in_large_batches(
        self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis
    ) -> None:
        Ledger(redis_client, "test").seed([])
        Ledger(redis_client, "test").note("rate", "100")
        stand = start(backfill_batch_seconds=1.5, live_batch_seconds=0.2, inflight_batches=2)
        stand.listed()
        source.drop(*(f"{number:04}" for number in range(500)))
        wait_until(lambda: len(stand.flow.batches) >= 3, "the live events")

        assert [len(batch) for _, batch in stand.flow.batches] == [150, 150, 150]

    def test_a_document_that_changes_again_before_its_hand_over_goes_once(
        self, start: Callable[..., Stand], source: ScriptedSource
    ) -> None:
        stand = start(inflight_batches=1)
        source.drop("a")
        stand.awaits("a")
        source.drop("b")
        stand.awaits("b")
        source.drop("c")
        source.drop("c", "d")
        time.sleep(CALM)
        stand.work("a")
        stand.awaits("d")
        assert stand.flow.batches[2:] == [("live", ["c", "d"])]
        stand.work("c", "d")
        wait_until(lambda: {"c", "c+d"} <= set(source.acks), "both deliveries")

    def test_what_the_listing_finds_goes_again_behind_a_look_that_began_before_it(
        self, start: Callable[..., Stand], source: ScriptedSource
    ) -> None:
        # Given a document in flight, whose look may have begun before the event that the source lost
        stand = start()
        source.drop("a")
        stand.awaits("a")
        # When a reconcile that begins later finds it
        stand.ledger.note("reconcile", "wanted")
        # Then it is looked at once more, as the look in flight may be looking at the past
        wait_until(lambda: stand.flow.batches == [("live", ["a"]), ("backfill", ["a"])], lambda: str(stand.flow.batches), seconds=5)


class TestAcknowledgement:
    def test_only_when_every_event_of_the_delivery_is_published(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a", "b")
        stand.awaits("a", "b")
        stand.work("a")
        stand.look("b")
        time.sleep(CALM)
        assert source.acks == []

        stand.build()

        wait_until(lambda: source.acks, "the acknowledgement")
        assert source.acks == ["a+b"]

    def test_when_the_document_is_dead(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        look = stand.ledger.begin([source.uri("a")])
        letter = DeadLetter(source.uri("a"), "1", "it is empty", 1, 0, 0)
        stand.ledger.settle(look, [Outcome(Entry(source.uri("a"), State.DEAD, look.stamp, version="1"), letter=letter)])
        wait_until(lambda: source.acks, "the acknowledgement")

    def test_when_nothing_had_changed(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        stand.work("a")
        source.drop("a")
        stand.awaits("a", times=2)
        look = stand.ledger.begin([source.uri("a")])
        (claim,) = look.claimed
        assert claim.entry
        stand.ledger.settle(look, [Outcome(claim.entry.with_(stamp=look.stamp), base=claim.entry.stamp)])
        wait_until(lambda: source.acks == ["a", "a"], "the second acknowledgement")

    def test_an_event_during_the_look_needs_a_look_of_its_own(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        # Given a look that began before the second change
        stand = start()
        source.drop("a")
        stand.awaits("a")
        look = stand.ledger.begin([source.uri("a")])
        source.drop("a")
        stand.awaits("a", times=2)
        # When it is published
        stand.ledger.settle(look, [Outcome(stand.entry(source.uri("a"), look.stamp))])
        stand.build()
        time.sleep(CALM)
        # Then the second change still waits
        assert source.acks == []
        stand.work("a")
        wait_until(lambda: source.acks == ["a", "a"], "both acknowledgements")

    def test_at_the_end_what_is_not_done_is_given_back(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start(window=2)
        source.drop("a")
        stand.awaits("a")
        stand.work("a")
        wait_until(lambda: source.acks == ["a"], "the acknowledgement")
        for name in ("b", "c", "d"):  # the last of them is beyond the window and not even heard
            source.drop(name)
        stand.awaits("b", "c")
        wait_until(source.script.empty, "the source to tell all")
        time.sleep(CALM)

        stand.stop()

        assert sorted(source.released) == ["b", "c", "d"]
        assert source.acks == ["a"]


class TestWindow:
    def test_beyond_it_nothing_is_heard(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start(window=10, inflight_batches=200)
        stand.listed()
        for number in range(150):
            source.drop(f"{number:03}")
        wait_until(lambda: len(stand.flow.names) >= 10, "the first events")
        time.sleep(CALM)
        assert len(stand.flow.names) == 10
        assert source.script.qsize() > 0  # the source has to wait

        def work_off() -> bool:
            stand.work(*stand.flow.names)
            return len(source.acks) == 150

        wait_until(work_off, lambda: f"all acknowledgements; so far {len(source.acks)}")

    def test_a_listing_respects_it_too(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        source.list_only(*(f"{number:04}" for number in range(1000)))
        stand = start(window=100, inflight_batches=1000)
        wait_until(lambda: len(stand.flow.names) >= 100, "the first events")
        time.sleep(CALM)
        assert len(stand.flow.names) == 100


class TestLostMemory:
    def lose(self, stand: Stand) -> None:
        stand.redis.flushall()

    def test_open_deliveries_are_handed_over_again(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        source.drop("b")
        stand.awaits("a", "b")
        stand.look("a")  # settled, and then forgotten
        before = stand.seeds

        self.lose(stand)

        stand.awaits("a", "b", times=2)
        assert stand.seeds == before + 1
        stand.work("a", "b")
        wait_until(lambda: sorted(source.acks) == ["a", "b"], "the acknowledgements")

    def test_everything_is_listed_again(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        source.list_only("quiet")
        stand = start()
        stand.awaits("quiet")
        stand.work("quiet")
        stand.listed()
        source.documents[source.uri("quiet")] = "2"  # a change that no event tells of

        self.lose(stand)

        stand.awaits("quiet", times=2)
        stand.work("quiet")
        stand.listed()

    def test_even_if_a_hand_over_is_the_first_to_notice(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand = start(inflight_batches=10)  # as nobody polls, no batch is ever over
        stand.listed()
        monkeypatch.setattr(Relay, "_poll", lambda *_: None)
        source.list_only("quiet")
        self.lose(stand)
        source.drop("a")
        stand.awaits("a", "quiet")

    def test_even_if_the_server_goes_away_while_it_is_taught(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        stand.listed()
        source.list_only("quiet")
        stand.seed_breaks = [RedisAway("for a moment")]
        self.lose(stand)
        stand.awaits("quiet")
        assert stand.seeds == 2

    def test_an_index_that_somebody_restored_is_noticed_while_nothing_happens(
        self, start: Callable[..., Stand], source: ScriptedSource
    ) -> None:
        source.list_only("quiet")
        stand = start()
        stand.awaits("quiet")
        stand.work("quiet")
        stand.listed()

        stand.published, stand.restored = [], True
        stand.ledger.note("reconcile", DUE)  # as Beat does

        stand.awaits("quiet", times=2)


class TestLostMessages:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(relay_module, "CLAIM_CHECK_SECONDS", 0.05)

    def test_an_event_whose_worker_died_is_handed_over_again(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_module, "CLAIM_SECONDS", 0.5)
        stand = start()
        source.drop("a")
        stand.awaits("a")
        stand.ledger.begin([source.uri("a")])  # and never heard of again
        stand.awaits("a", times=2)
        stand.work("a")
        wait_until(lambda: source.acks == ["a"], "the acknowledgement")

    def test_one_that_a_living_worker_looks_at_is_not(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "UNCLAIMED_SECONDS", 0.1)
        stand = start()
        source.drop("a")
        stand.awaits("a")
        stand.ledger.begin([source.uri("a")])
        time.sleep(2 * CALM)
        assert stand.flow.names == ["a"]

    def test_one_that_nobody_looks_at_is_after_the_deadline(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        time.sleep(CALM)
        assert stand.flow.names == ["a"]
        monkeypatch.setattr(relay_module, "UNCLAIMED_SECONDS", 0.1)
        stand.awaits("a", times=2)

    def test_a_look_that_the_build_had_to_refuse_is_repeated(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        stand.look("a")
        time.sleep(CALM)
        stand.ledger.renotice(stand.ledger.epoch(), stand.ledger.settled(10))
        stand.awaits("a", times=2)
        stand.work("a")
        wait_until(lambda: source.acks == ["a"], "the acknowledgement")

    def test_a_build_that_never_came_is_asked_for(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "NUDGE_SECONDS", 0.2)
        stand = start()
        source.drop("a")
        stand.awaits("a")
        time.sleep(2 * CALM)
        assert stand.flow.builds == 0  # nothing has settled
        stand.look("a")
        wait_until(lambda: stand.flow.builds >= 2, "a build, and another one as that did not come either")
        stand.build()
        wait_until(lambda: source.acks == ["a"], "the acknowledgement")

    def test_a_build_that_comes_in_time_is_not(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        for name in ("a", "b", "c"):
            source.drop(name)
            stand.awaits(name)
            stand.look(name)
            time.sleep(CALM)
            stand.build()
            wait_until(lambda name=name: name in source.acks, "the acknowledgement")
        assert stand.flow.builds == 0

    def test_what_a_killed_relay_had_noticed_is_handed_over(
        self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis
    ) -> None:
        """The listing cannot tell: the one document is gone and unknown, the other is as it was."""
        dead = Ledger(redis_client, "test")
        epoch = dead.seed([Entry(source.uri("same"), State.PRESENT, 1, version="1", content_hash="h")])
        dead.notice(epoch, [source.uri("gone"), source.uri("same"), "file:///elsewhere/x"])
        source.list_only("same")

        stand = start()

        stand.awaits("gone", "same")
        stand.work("gone", "same")
        assert stand.ledger.counts()["noticed"] == 1


class TestTelling:
    """What the ledger cannot know, the relay leaves word of."""

    @pytest.fixture(autouse=True)
    def _often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress_module, "TELL_SECONDS", 0.0)

    def told(self, stand: Stand) -> Progress:
        return progress_module.told(stand.ledger, stand.ledger.alive())

    def test_what_waits_and_whether_more_may_be_found(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        source.list_only(*(f"{number:04}" for number in range(500)))
        source.may_list.clear()
        stand = start(inflight_batches=2)
        wait_until(lambda: self.told(stand).listing, "word of the listing")
        source.may_list.set()
        wait_until(lambda: self.told(stand) == Progress(500 - 2 * FIRST_BATCH), lambda: f"what waits; told was {self.told(stand)}")

    def test_how_fast_it_goes_while_something_is_open(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        source.drop("a")
        stand.awaits("a")
        stand.ledger.count({"looks|outcome=present": 10})
        wait_until(lambda: self.told(stand).rate > 0, "a rate")
        stand.work("a")
        wait_until(lambda: self.told(stand) == Progress(), "rest")

    def test_one_that_is_gone_is_not_believed(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        source.list_only(*(f"{number:04}" for number in range(500)))
        stand = start()
        wait_until(lambda: self.told(stand).waiting, "word of what waits")
        stand.stop()
        assert progress_module.told(stand.ledger, []) == Progress()


class TestServerAway:
    def test_no_event_is_lost_when_a_hand_over_fails(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        stand = start()
        stand.listed()
        stand.flow.breaks = [Unavailable("the broker did not take it"), RedisAway("gone")]
        source.drop("a")
        source.drop("b")
        stand.awaits("a", "b")
        stand.work("a", "b")
        wait_until(lambda: sorted(source.acks) == ["a", "b"], "the acknowledgements")

    def test_no_difference_is_lost_when_a_hand_over_fails(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        names = [f"{number:03}" for number in range(2 * FIRST_BATCH)]
        source.list_only(*names)
        stand = start()
        stand.flow.breaks = [Unavailable("the broker did not take it")]
        stand.awaits(*names)

    @pytest.mark.parametrize("method", ["notice", "standings", "epoch", "take_note", "noted", "claims"])
    def test_no_event_is_lost_when_the_ledger_fails(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        stand = start()
        stand.listed()
        works, left = getattr(stand.relay._ledger, method), [1]

        def broken(*args: object) -> object:
            if left and left.pop():
                raise RedisAway("gone")
            return works(*args)

        monkeypatch.setattr(stand.relay._ledger, method, broken)
        source.drop("a")
        stand.awaits("a")
        stand.work("a")
        wait_until(lambda: source.acks == ["a"], "the acknowledgement")

    def test_a_listing_that_broke_is_begun_again(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "RELIST_SECONDS", 0.3)
        source.list_only("a")
        source.listing_breaks = Unavailable("the mount is gone")
        stand = start()
        stand.awaits("a")
        time.sleep(CALM)
        assert not stand.ledger.noted("reconciled")
        source.listing_breaks = None
        stand.listed()

    @pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bug")])
    def test_whatever_breaks_a_listing_it_does_not_pass_for_complete(
        self, start: Callable[..., Stand], source: ScriptedSource, error: Exception
    ) -> None:
        source.list_only("a")
        source.listing_breaks = error
        stand = start()
        stand.awaits("a")
        time.sleep(CALM)
        assert not stand.ledger.noted("reconciled")

    @pytest.mark.parametrize("error", [ConfigurationError("no such queue"), ValueError("bug")])
    def test_a_watch_that_cannot_go_on_ends_the_relay(self, start: Callable[..., Stand], source: ScriptedSource, error: Exception) -> None:
        stand = start()
        source.script.put(error)
        assert isinstance(stand.ended(), DropdexError)

    def test_a_watch_that_was_interrupted_is_armed_again(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand = start()
        stand.listed()
        source.list_only("missed")
        source.script.put(Unavailable("the mount is gone"))
        stand.awaits("missed")


class TestReconcile:
    def fill(self, redis: Redis, source: ScriptedSource, *names: str) -> None:
        Ledger(redis, "test").seed([Entry(source.uri(name), State.PRESENT, 1, version="1", content_hash=name) for name in names])

    def test_at_the_start_differences_are_handed_over_and_nothing_else(
        self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis
    ) -> None:
        self.fill(redis_client, source, "same", "changed", "gone")
        source.list_only("same", "changed", "new")
        source.documents[source.uri("changed")] = "2"
        stand = start()
        stand.awaits("changed", "gone", "new")
        stand.listed()
        assert sorted(stand.flow.names) == ["changed", "gone", "new"]

    def test_complete_only_after_every_source(self, start: Callable[..., Stand], source: ScriptedSource) -> None:
        slow = ScriptedSource("file:///slow/")
        slow.may_list.clear()
        stand = start(slow)
        source.list_only("a")
        source.script.put(Overflow(source.root))
        stand.awaits("a")
        time.sleep(CALM)
        assert not stand.ledger.noted("reconciled")
        slow.may_list.set()
        stand.listed()

    def test_a_part_does_not_make_a_whole(
        self, start: Callable[..., Stand], source: ScriptedSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source.listing_breaks = Unavailable("the mount is gone")
        stand = start()
        source.list_only("sub/x")
        stand.awaits("x")
        source.listing_breaks = None
        source.script.put(Overflow(source.uri("sub/")))
        time.sleep(CALM)
        assert not stand.ledger.noted("reconciled")

    def test_a_folder_that_was_moved_away_takes_all_its_documents_along(
        self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis
    ) -> None:
        names = [f"{number:02}" for number in range(40)]
        self.fill(redis_client, source, *(f"sub/{name}" for name in names))
        source.list_only(*(f"sub/{name}" for name in names))
        stand = start()
        stand.listed()
        source.documents.clear()
        source.script.put(Overflow(source.uri("sub/")))
        stand.awaits(*names)

    def test_a_source_that_misses_too_much_removes_nothing(
        self, start: Callable[..., Stand], source: ScriptedSource, redis_client: Redis
    ) -> None:
        names = [f"{number:02}" for number in range(40)]
        self.fill(redis_client, source, *names)
        source.list_only(*names[:20], "new")
        stand = start()
        stand.awaits("new")
        time.sleep(CALM)
        assert stand.flow.names == ["new"]
        assert not stand.ledger.noted("reconciled")

        stand.ledger.note("reconcile", "allow-removals")
        stand.awaits(*names[20:])

    @pytest.mark.parametrize(("wish", "more"), [(DUE, 0), ("wanted", 1)])
    def test_a_listing_under_way_answers_the_schedule_and_nobody_else(
        self, start: Callable[..., Stand], source: ScriptedSource, wish: str, more: int
    ) -> None:
        # Given a listing of everything that is under way
        stand = start()
        source.may_list.clear()
        source.script.put(Overflow(source.root))
        wait_until(lambda: source.listings == 2, lambda: str(source.listings), seconds=5)
        # When a reconcile is asked for
        stand.ledger.note("reconcile", wish)
        wait_until(lambda: not stand.ledger.noted("reconcile"), "the wish to be taken", seconds=5)
        source.may_list.set()
        # Then only somebody who asks by hand is given one more
        time.sleep(CALM)
        assert source.listings == 2 + more

    def test_on_demand_without_a_watch(self, redis_client: Redis, source: ScriptedSource) -> None:
        source.list_only("a", "b")
        stand = Stand(redis_client, [source])

        def work() -> None:
            stand.awaits("a", "b")
            stand.work("a", "b")

        worker = Thread(target=work)
        worker.start()
        assert stand.relay.reconcile_once(Event()) == 2
        worker.join()
        assert stand.relay.reconcile_once(Event()) == 0

    def test_on_demand_says_why_it_stopped(self, redis_client: Redis, source: ScriptedSource) -> None:
        self.fill(redis_client, source, *(f"{number:02}" for number in range(40)))
        with pytest.raises(TooManyRemovals):
            Stand(redis_client, [source]).relay.reconcile_once(Event())
