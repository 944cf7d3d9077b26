"""The ledger on a real server: whatever the order of events, looks and builds, the youngest look has the last word."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence

import pytest
from redis import Redis

from pipeline.base.model import DeadLetter, Entry, Known, State
from pipeline.ledger import ledger as ledger_module
from pipeline.ledger.ledger import Claim, Ledger, Look, Outcome, Standing

A, B, C = "file:///in/a", "file:///in/b", "file:///in/c"


@pytest.fixture
def ledger(redis_client: Redis) -> Ledger:
    return Ledger(redis_client, "test")


@pytest.fixture
def epoch(ledger: Ledger) -> str:
    return ledger.seed([])


def present(uri: str, look: Look, content: str = "text", *, version: str = "v1", shard: str = "s1") -> Entry:
    return Entry(uri, State.PRESENT, look.stamp, version=version, content_hash=content, shard=shard, passages=1)


def settle(ledger: Ledger, look: Look, *entries: Entry, base: int | None = None) -> bool:
    return ledger.settle(look, [Outcome(entry, base=base) for entry in entries])


def look_at(ledger: Ledger, epoch: str, *uris: str) -> Look:
    assert ledger.notice(epoch, uris)
    return ledger.begin(uris)


def settled(ledger: Ledger) -> dict[str, int]:
    return {entry.uri: entry.stamp for entry in ledger.settled(100)}


class TestMemory:
    def test_a_ledger_without_memory_takes_no_event_and_no_look(self, ledger: Ledger) -> None:
        assert ledger.epoch() == ""
        assert ledger.notice("", [A]) is None
        assert ledger.begin([A]) == Look("", 0, ())

    def test_seeding_teaches_what_is_published(self, ledger: Ledger) -> None:
        entry = Entry(A, State.PRESENT, 5, version="v", content_hash="h", generation=3)

        epoch = ledger.seed([entry])

        assert ledger.epoch() == epoch != ""
        assert ledger.entries([A]) == [entry]
        assert list(ledger.known("file:///in/")) == [Known(A, "v")]
        assert ledger.shards_of(["h", "x"]) == ["", None]
        assert ledger.settled(10) == []

    def test_seeding_twice_begins_one_epoch_and_overwrites_no_look(self, ledger: Ledger) -> None:
        epoch = ledger.seed([])
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look))

        assert ledger.seed([Entry(A, State.PRESENT, 1, content_hash="old")]) == epoch
        assert ledger.entries([A])[0] == present(A, look)

    def test_stamps_go_on_above_those_that_are_published_even_if_the_clock_was_set_back(self, ledger: Ledger) -> None:
        ahead = int((time.time() + 3600) * 1e6)
        epoch = ledger.seed([Entry(A, State.PRESENT, ahead)])

        assert (ledger.notice(epoch, [A]) or 0) > ahead

    def test_what_was_begun_before_the_memory_was_lost_is_refused(self, ledger: Ledger, epoch: str, redis_client: Redis) -> None:
        look = look_at(ledger, epoch, A)
        redis_client.flushall()
        ledger.seed([])

        assert not settle(ledger, look, present(A, look))
        assert ledger.notice(epoch, [A]) is None
        assert not ledger.published(epoch, 1, [present(A, look)])
        assert ledger.standings(epoch, {A: look.stamp}) == {A: Standing.LOST}
        assert ledger.entries([A]) == [None]


class TestEvents:
    def test_stamps_rise_strictly(self, ledger: Ledger, epoch: str) -> None:
        stamps = []
        for _ in range(50):
            stamps += [ledger.notice(epoch, [A]) or 0, ledger.begin([A]).stamp]

        assert stamps == sorted(set(stamps))

    def test_an_event_goes_from_noticed_over_settled_to_done(self, ledger: Ledger, epoch: str) -> None:
        stamp = ledger.notice(epoch, [A]) or 0
        stood = [ledger.standings(epoch, {A: stamp})[A]]
        look = ledger.begin([A])
        settle(ledger, look, present(A, look))
        stood.append(ledger.standings(epoch, {A: stamp})[A])
        ledger.published(epoch, 7, ledger.settled(10))
        stood.append(ledger.standings(epoch, {A: stamp})[A])

        assert stood == [Standing.NOTICED, Standing.SETTLED, Standing.DONE]
        assert ledger.entries([A])[0] == present(A, look).with_(generation=7)

    def test_an_event_after_the_look_began_is_not_answered_by_it(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A)
        later = ledger.notice(epoch, [A]) or 0
        settle(ledger, look, present(A, look))
        ledger.published(epoch, 1, ledger.settled(10))

        assert ledger.standings(epoch, {A: later}) == {A: Standing.NOTICED}
        assert [claim.uri for claim in ledger.begin([A]).claimed] == [A]

    def test_an_event_that_the_ledger_never_heard_of_is_lost(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look))
        ledger.published(epoch, 1, ledger.settled(10))

        assert ledger.standings(epoch, {A: look.stamp + 1, B: 1}) == {A: Standing.LOST, B: Standing.LOST}

    def test_thousands_at_once(self, ledger: Ledger, epoch: str) -> None:
        uris = [f"file:///in/{number:05}" for number in range(2500)]
        look = look_at(ledger, epoch, *uris)

        assert settle(ledger, look, *(present(uri, look, content=uri) for uri in uris))
        assert len(ledger.settled(10_000)) == 2500
        assert ledger.published(epoch, 1, ledger.settled(10_000))
        assert set(ledger.standings(epoch, dict.fromkeys(uris, look.stamp - 1)).values()) == {Standing.DONE}
        assert [entry.uri for entry in ledger.known("file:///in/")] == uris

    def test_names_come_in_byte_order_and_below_their_prefix_only(self, ledger: Ledger, epoch: str) -> None:
        uris = ["file:///in/a", "file:///in/a/b", "file:///in/a b", "file:///in/ä", "file:///in/😀", "file:///in/ﬀ", "file:///other/a"]
        look = look_at(ledger, epoch, *uris)
        settle(ledger, look, *(present(uri, look) for uri in uris))

        assert [entry.uri for entry in ledger.known("file:///in/")] == sorted(uris[:6], key=str.encode)
        assert [entry.uri for entry in ledger.known("file:///in/a/")] == ["file:///in/a/b"]


class TestLooks:
    def test_a_message_delivered_twice_finds_nothing_to_do(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A, B)

        assert ledger.begin([A, B]).claimed == ()  # while the first is under way
        settle(ledger, look, present(A, look), present(B, look))
        assert ledger.begin([A, B]).claimed == ()  # and after it

    def test_a_document_named_twice_in_a_batch_is_claimed_once(self, ledger: Ledger, epoch: str) -> None:
        assert [claim.uri for claim in look_at(ledger, epoch, A, A).claimed] == [A]

    def test_an_event_younger_than_a_live_look_gets_a_look_of_its_own(self, ledger: Ledger, epoch: str) -> None:
        first = look_at(ledger, epoch, A)
        second = look_at(ledger, epoch, A)

        assert [claim.uri for claim in second.claimed] == [A]
        settle(ledger, second, present(A, second, "new"))
        settle(ledger, first, present(A, first, "old"))
        assert ledger.entries([A])[0] == present(A, second, "new")

    def test_the_claim_of_a_dead_worker_expires(self, ledger: Ledger, epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "CLAIM_SECONDS", 0.05)
        first = look_at(ledger, epoch, A)
        assert ledger.claims([A, B]) == [Claim.LIVE, Claim.NONE]

        time.sleep(0.1)

        assert ledger.claims([A, B]) == [Claim.EXPIRED, Claim.NONE]
        second = ledger.begin([A])
        assert [claim.uri for claim in second.claimed] == [A]
        settle(ledger, second, present(A, second, "theirs"))
        settle(ledger, first, present(A, first, "ours"))
        assert ledger.entries([A])[0] == present(A, second, "theirs")

    def test_a_living_worker_keeps_its_claim(self, ledger: Ledger, epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "CLAIM_SECONDS", 0.3)
        look = look_at(ledger, epoch, A)

        with ledger.keeping(look):
            time.sleep(1.0)
            assert ledger.claims([A]) == [Claim.LIVE]
        assert ledger.claims([A]) == [Claim.NONE]

    def test_a_worker_never_drops_the_claim_of_another(self, ledger: Ledger, epoch: str) -> None:
        first = look_at(ledger, epoch, A)
        with ledger.keeping(first):
            look_at(ledger, epoch, A)
        assert ledger.claims([A]) == [Claim.LIVE]

    def test_the_keeper_outlives_a_server_that_is_away(self, ledger: Ledger, epoch: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from redis.exceptions import ConnectionError as Away

        monkeypatch.setattr(ledger_module, "CLAIM_SECONDS", 0.3)
        look, calls, call = look_at(ledger, epoch, A), itertools.count(), ledger._call

        def flaky(script: str, *args: object) -> object:
            if script == "renew" and next(calls) == 0:
                raise Away("for a moment")
            return call(script, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(ledger, "_call", flaky)
        with ledger.keeping(look):
            time.sleep(1.0)
            assert ledger.claims([A]) == [Claim.LIVE]

    def test_attempts_count_per_version_and_are_forgotten_when_a_look_ends(self, ledger: Ledger, epoch: str) -> None:
        assert ledger.attempt([(A, "1"), (B, "v:1")]) == [1, 1]
        assert ledger.attempt([(A, "1"), (B, "v:2")]) == [2, 1]
        assert ledger.attempts([(A, "1"), (A, "2"), (B, "v:2"), (C, "")]) == [2, 0, 1, 0]

        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look))
        assert ledger.attempts([(A, "1"), (B, "v:2")]) == [0, 1]

    def test_an_attempt_can_be_taken_back(self, ledger: Ledger, epoch: str) -> None:
        ledger.attempt([(A, "1")])
        ledger.attempt([(A, "1"), (B, "1")])
        ledger.unattempt([(A, "1"), (B, "other")])
        assert ledger.attempts([(A, "1"), (B, "1")]) == [1, 1]
        ledger.unattempt([(A, "1"), (A, "1")])
        assert ledger.attempts([(A, "1")]) == [0]


class TestConfirmation:
    """A look that finds what is published already publishes nothing, unless it was overtaken meanwhile."""

    def published_once(self, ledger: Ledger, epoch: str) -> Look:
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look, "one"))
        ledger.published(epoch, 1, ledger.settled(10))
        return look

    def test_confirming_what_is_published_is_done_at_once(self, ledger: Ledger, epoch: str) -> None:
        first = self.published_once(ledger, epoch)
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "one"), base=first.stamp)

        assert ledger.settled(10) == []
        assert ledger.standings(epoch, {A: second.stamp - 1}) == {A: Standing.DONE}

    def test_confirming_what_waits_for_a_build_goes_on_waiting(self, ledger: Ledger, epoch: str) -> None:
        first = look_at(ledger, epoch, A)
        settle(ledger, first, present(A, first, "one"))
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "one"), base=first.stamp)

        assert settled(ledger) == {A: second.stamp}

    def test_an_overtaken_confirmation_is_published_after_all(self, ledger: Ledger, epoch: str) -> None:
        # Given "one" is published, a look that will find "two", and a younger one that finds "one" again
        first = self.published_once(ledger, epoch)
        second = look_at(ledger, epoch, A)
        third = look_at(ledger, epoch, A)
        # When "two" is settled and published before the younger look ends
        settle(ledger, second, present(A, second, "two"))
        ledger.published(epoch, 2, ledger.settled(10))
        settle(ledger, third, present(A, third, "one"), base=first.stamp)
        # Then "one" waits for a build, although the look itself saw no change
        assert settled(ledger) == {A: third.stamp}


class TestPublication:
    def test_only_the_look_that_was_published_is_done(self, ledger: Ledger, epoch: str) -> None:
        first = look_at(ledger, epoch, A, B)
        settle(ledger, first, present(A, first, "one"), present(B, first))
        taken = ledger.settled(10)
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "two"))

        ledger.published(epoch, 1, taken)

        assert settled(ledger) == {A: second.stamp}
        assert [entry and entry.generation for entry in ledger.entries([A, B])] == [0, 1]

    def test_the_oldest_look_is_published_first(self, ledger: Ledger, epoch: str) -> None:
        for uri in (C, A, B):
            look = look_at(ledger, epoch, uri)
            settle(ledger, look, present(uri, look))
        assert [entry.uri for entry in ledger.settled(2)] == [C, A]

    def test_a_promise_taken_back_needs_a_look_again(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look, shard=""))
        settle(ledger, look, present(A, look, shard="gone"))

        ledger.renotice(epoch, ledger.settled(10))

        assert ledger.settled(10) == []
        assert ledger.shards_of(["text"]) == [None]
        again = ledger.begin([A])
        assert [claim.uri for claim in again.claimed] == [A]

    def test_a_document_whose_promise_was_taken_back_is_still_known(self, ledger: Ledger, epoch: str) -> None:
        """Its older content may be published: if it vanished now, only the listing's comparison could tell."""
        first = look_at(ledger, epoch, A)
        settle(ledger, first, present(A, first, "old"))
        ledger.published(epoch, 1, ledger.settled(10))
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "new", version="v2", shard="gone"))

        ledger.renotice(epoch, ledger.settled(10))

        (known,) = ledger.known("file:///in/")
        assert (known.uri, known.version) == (A, "")

    def test_a_promise_is_not_taken_back_from_a_younger_look(self, ledger: Ledger, epoch: str) -> None:
        first = look_at(ledger, epoch, A)
        settle(ledger, first, present(A, first))
        broken = ledger.settled(10)
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "new"))

        ledger.renotice(epoch, broken)

        assert settled(ledger) == {A: second.stamp}


class TestDeadLetters:
    def letter(self, uri: str, at: float = 1.0) -> DeadLetter:
        return DeadLetter(uri, "v2", "it is empty", 1, at, at)

    def die(self, ledger: Ledger, epoch: str, uri: str, at: float = 1.0) -> None:
        look = look_at(ledger, epoch, uri)
        ledger.settle(look, [Outcome(Entry(uri, State.DEAD, look.stamp, version="v2"), letter=self.letter(uri, at))])

    def test_a_dead_document_is_done_known_and_listed(self, ledger: Ledger, epoch: str) -> None:
        self.die(ledger, epoch, A)

        assert ledger.settled(10) == []
        assert ledger.standings(epoch, {A: 1}) == {A: Standing.DONE}
        assert [entry.version for entry in ledger.known("file:///in/")] == ["v2"]
        assert list(ledger.dead_letters()) == [ledger.dead_letter(A)] == [self.letter(A)]

    def test_a_look_that_reads_it_takes_the_letter_away(self, ledger: Ledger, epoch: str) -> None:
        self.die(ledger, epoch, A)
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look))
        assert ledger.dead_letter(A) is None

    def test_a_forgotten_letter_is_looked_at_again_and_its_document_stays_known(self, ledger: Ledger, epoch: str) -> None:
        self.die(ledger, epoch, A)
        ledger.attempt([(A, "v2")])

        ledger.forget(A)

        assert ledger.dead_letter(A) is None
        assert ledger.attempts([(A, "v2")]) == [0]
        (known,) = ledger.known("file:///in/")  # an older version may be published, so a removal must still be noticed
        assert (known.uri, known.version) == (A, "")

    def test_forgetting_leaves_a_living_document_alone(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A)
        settle(ledger, look, present(A, look))
        ledger.forget(A)
        assert ledger.settled(10) == [present(A, look)]

    def test_a_dropped_letter_goes_on_silencing_the_listing(self, ledger: Ledger, epoch: str) -> None:
        self.die(ledger, epoch, A)
        ledger.drop(A)
        assert ledger.dead_letter(A) is None
        assert [entry.version for entry in ledger.known("file:///in/")] == ["v2"]


class TestSweep:
    def remove(self, ledger: Ledger, epoch: str, uri: str) -> int:
        look = look_at(ledger, epoch, uri)
        settle(ledger, look, Entry(uri, State.REMOVED, look.stamp))
        return look.stamp

    def test_old_tombstones_and_letters_and_contents_that_nobody_has_are_forgotten(self, ledger: Ledger, epoch: str) -> None:
        # Given one document that changed, one that went, and one that died
        first = look_at(ledger, epoch, A, B)
        settle(ledger, first, present(A, first, "old"), present(B, first, "gone"))
        second = look_at(ledger, epoch, A)
        settle(ledger, second, present(A, second, "new", shard="s2"))
        removed = self.remove(ledger, epoch, B)
        ledger.published(epoch, 1, ledger.settled(10))
        TestDeadLetters().die(ledger, epoch, C, at=50.0)
        # When everything before now is swept
        swept = ledger.sweep(removed_before=removed + 1, dead_before=51.0)
        # Then what is left is what the folder holds
        assert swept == {"tombstones": 1, "contents": 2, "dead": 1}
        assert ledger.entries([B]) == [None]
        assert ledger.shards_of(["old", "gone", "new"]) == [None, None, "s2"]
        assert list(ledger.dead_letters()) == []

    def test_a_removal_that_is_not_published_is_kept(self, ledger: Ledger, epoch: str) -> None:
        removed = self.remove(ledger, epoch, A)
        assert ledger.sweep(removed_before=removed + 1, dead_before=0)["tombstones"] == 0
        assert settled(ledger) == {A: removed}

    def test_a_document_that_returns_during_the_sweep_is_not_swept(
        self, ledger: Ledger, epoch: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given an old tombstone, and a document that returns while the sweep is under way
        removed = self.remove(ledger, epoch, A)
        ledger.published(epoch, 1, ledger.settled(10))
        exists = redis_client.exists

        def meanwhile(*names: str) -> object:
            look = look_at(ledger, epoch, A)
            settle(ledger, look, present(A, look, "back"))
            return exists(*names)

        monkeypatch.setattr(redis_client, "exists", meanwhile)
        # When
        ledger.sweep(removed_before=removed + 1, dead_before=0)
        # Then its look still waits for a build
        assert [entry.content_hash for entry in ledger.settled(10)] == ["back"]


class TestLeftovers:
    def test_events_that_nobody_answered_are_told(self, ledger: Ledger, epoch: str) -> None:
        ledger.notice(epoch, [A, "file:///other/x"])
        ledger.notice(epoch, [B])

        assert set(ledger.unanswered("file:///in/")) == {A, B}

    def test_shards_of_what_waits_are_in_use(self, ledger: Ledger, epoch: str) -> None:
        look = look_at(ledger, epoch, A, B)
        settle(ledger, look, present(A, look, shard="x"), present(B, look, shard=""))
        assert ledger.shards_in_use() == {"x"}


def test_figures(ledger: Ledger, epoch: str) -> None:
    assert ledger.counts() == {"documents": 0, "noticed": 0, "settled": 0, "dead": 0, "oldest": 0}
    stamp = ledger.notice(epoch, [A, B])
    look = ledger.begin([A])
    settle(ledger, look, present(A, look))
    assert ledger.counts() == {"documents": 1, "noticed": 1, "settled": 1, "dead": 0, "oldest": stamp}
    assert ledger.pending(A) == (0, look.stamp)

    ledger.fresh([0.3, 0.1])
    ledger.fresh([])
    ledger.count({"documents": 2, "embedded": 1.0})
    ledger.count({"embedded": 2.0})
    assert ledger.freshness() == [0.1, 0.3]
    assert ledger.totals() == {"documents": 2, "embedded": 3}

    ledger.note("reconcile", "wanted")
    assert (ledger.take_note("reconcile"), ledger.take_note("reconcile"), ledger.noted("rate")) == ("wanted", "", "")
    ledger.show_life("watch@here")
    assert ledger.alive() == ["watch@here"]


def test_every_interleaving_ends_with_the_youngest_look(ledger: Ledger, epoch: str, redis_client: Redis) -> None:
    """Writers, workers and builds in random order, each step where it may be: in the end the index holds the last write."""
    for seed in range(60):
        redis_client.flushall()
        run = Interleaving(ledger, ledger.seed([]), random.Random(seed))
        for _ in range(40):
            run.step()
        run.drain()
        assert run.index == run.source, f"with seed {seed}"


class Interleaving:
    """A source of one document, workers that look at it, and builds, all of them one step at a time."""

    def __init__(self, ledger: Ledger, epoch: str, chance: random.Random) -> None:
        self.ledger, self.epoch, self.chance = ledger, epoch, chance
        self.source, self.index, self.indexed = "", "", 0
        self.looks: list[list[object]] = []
        self.builds: list[Sequence[Entry]] = []

    def step(self) -> None:
        self.chance.choice([self.write, self.begin, self.read, self.read, self.settle, self.settle, self.take, self.publish])()

    def write(self) -> None:
        self.source = self.chance.choice(["", "one", "two"])
        self.ledger.notice(self.epoch, [A])

    def begin(self) -> None:
        look = self.ledger.begin([A])
        if look.claimed:
            self.looks.append([look, None])

    def read(self) -> None:
        unread = [look for look in self.looks if look[1] is None]
        if unread:
            self.chance.choice(unread)[1] = self.source

    def settle(self) -> None:
        done = [look for look in self.looks if look[1] is not None]
        if done:
            chosen = self.chance.choice(done)
            self.looks.remove(chosen)
            look, seen = chosen
            assert isinstance(look, Look)
            entry = Entry(A, State.PRESENT if seen else State.REMOVED, look.stamp, content_hash=str(seen))
            known = look.claimed[0].entry
            same = known is not None and known.state is entry.state and known.content_hash == seen
            self.ledger.settle(look, [Outcome(entry, base=known.stamp if known and same else None)])

    def take(self) -> None:
        self.builds.append(self.ledger.settled(10))

    def publish(self) -> None:
        if self.builds:
            entries = self.builds.pop(self.chance.randrange(len(self.builds)))
            for entry in entries:
                if entry.stamp > self.indexed:
                    self.index, self.indexed = entry.content_hash, entry.stamp
            self.ledger.published(self.epoch, 1, entries)

    def drain(self) -> None:
        while self.looks:
            self.read()
            self.settle()
        self.begin()
        self.read()
        self.settle()
        self.take()
        while self.builds:
            self.publish()
