"""The tasks, called in this process, with a real server, a real folder, a real index and the hash embedder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from pipeline.base.errors import Conflict, Unavailable
from pipeline.base.model import State
from pipeline.context import Context
from pipeline.index import upkeep
from pipeline.index.home import Home
from pipeline.ledger.ledger import Ledger, Look
from pipeline.relay.reconcile import DUE
from pipeline.sinks.swap import Swap
from pipeline.tasks import build as build_module
from pipeline.tasks import embed as embed_module
from pipeline.tasks.build import BUSY_DOCUMENTS, BUSY_INTERVAL, bounded, build, interval, pace, publish_settled
from pipeline.tasks.embed import embed
from pipeline.tasks.maintenance import cleanup, reconcile, statistics
from pipeline.tasks.merge import merge, rebuild
from pipeline.tasks.publish import publish
from tests.support import Pipeline

BROKEN_PDF = b"%PDF-1.4\n1 0 obj << /Type /Catalog >> trailer garbage"


def entry(pipeline: Pipeline, uri: str) -> Any:
    (found,) = pipeline.context.ledger.entries([uri])
    assert found
    return found


class TestPace:
    def test_generations_come_less_often_while_much_waits_to_be_looked_at(self, opened: Callable[..., Pipeline]) -> None:
        context = opened(build_interval=0.05).context
        ledger = context.ledger
        assert interval(context) == 0.05

        ledger.notice(context.seed(), [f"file:///{number}" for number in range(BUSY_DOCUMENTS + 1)])

        assert interval(context) == BUSY_INTERVAL

    def test_a_clock_that_runs_behind_the_last_builders_holds_nothing_up(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(build_interval=0.05)
        pipeline.index(pipeline.folder.put("a.txt", "first words"))
        found = pipeline.context.home.current()
        assert found

        pace(pipeline.context, found[0].model_copy(update={"created_at": time.time() + 3600}))


class TestOneDocument:
    def test_from_a_dropped_file_to_a_search(self, pipeline: Pipeline) -> None:
        whale = pipeline.folder.put("whale.txt", "a white whale swims")
        cat = pipeline.folder.put("häuser/a cat.md", "a grey cat sleeps")
        pipeline.look(whale, cat)
        assert pipeline.build() == "generation 1"

        assert pipeline.found("whale", 1) == [whale]
        assert pipeline.published() == pipeline.folder.contents()
        assert entry(pipeline, cat).generation == 1
        assert pipeline.differences() == []
        assert pipeline.context.ledger.counts()["noticed"] == pipeline.context.ledger.counts()["settled"] == 0

    def test_a_change_and_a_removal_follow(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "first words")
        pipeline.index(uri)
        pipeline.folder.put("a.txt", "second thoughts")
        pipeline.index(uri)
        assert pipeline.published() == pipeline.folder.contents()

        pipeline.folder.remove("a.txt")
        pipeline.index(uri)

        assert pipeline.published() == {}
        assert entry(pipeline, uri).state is State.REMOVED

    def test_a_document_that_went_before_it_was_published(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.look(uri)
        pipeline.folder.remove("a.txt")
        pipeline.index(uri)
        assert pipeline.context.ledger.counts()["settled"] == 0
        assert not pipeline.context.home.current()

    def test_nothing_settled_makes_no_generation(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        assert pipeline.build() == "nothing settled"
        assert pipeline.manifest().generation == 1

    def test_the_same_message_again_changes_nothing(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.index(uri)
        before = pipeline.manifest()
        for _ in range(3):
            embed([uri], "live")
            build()
        assert pipeline.manifest() == before
        assert pipeline.embedded == 1

    def test_one_build_takes_all_that_settled(self, pipeline: Pipeline) -> None:
        for number in range(5):
            pipeline.look(pipeline.folder.put(f"{number}.txt", f"text number {number}"))
        pipeline.build()
        assert pipeline.manifest().generation == 1
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_generation_is_bounded_and_the_next_follows(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(build_documents=2)
        for number in range(5):
            pipeline.look(pipeline.folder.put(f"{number}.txt", f"text number {number}"))
        assert pipeline.build() == "generation 3"
        assert pipeline.published() == pipeline.folder.contents()

    def test_freshness_counts_for_live_events_only(self, pipeline: Pipeline) -> None:
        pipeline.look(pipeline.folder.put("old.txt", "found by the listing"), origin="backfill")
        pipeline.build()
        assert pipeline.context.ledger.freshness() == []
        pipeline.index(pipeline.folder.put("new.txt", "dropped just now"))
        (seconds,) = pipeline.context.ledger.freshness()
        assert 0 < seconds < 60

    def test_the_other_sinks_and_a_merge_are_told(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(merge_factor=2)
        for number in range(3):
            pipeline.index(pipeline.folder.put(f"{number}.txt", f"text number {number}"))
        assert ("dropdex.publish", ("announce", 1)) in pipeline.sent
        assert ("dropdex.merge", ()) in pipeline.sent


class TestReuse:
    def test_a_rename_a_copy_and_a_touch_embed_nothing(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "these words"))
        assert pipeline.embedded == 1

        pipeline.index(*pipeline.folder.rename("a.txt", "b.txt"))
        pipeline.index(pipeline.folder.put("c.txt", "these words"))
        os.utime(pipeline.folder.path / "c.txt")
        pipeline.index(pipeline.folder.uri("c.txt"))

        assert pipeline.embedded == 1
        assert pipeline.published() == pipeline.folder.contents()
        assert set(pipeline.found("words")) == {pipeline.folder.uri("b.txt"), pipeline.folder.uri("c.txt")}
        assert pipeline.differences() == []

    def test_a_touch_publishes_nothing(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "these words")
        pipeline.index(uri)
        os.utime(pipeline.folder.path / "a.txt")
        pipeline.look(uri)
        assert pipeline.build() == "nothing settled"
        assert pipeline.manifest().generation == 1

    def test_a_content_that_comes_twice_in_a_batch_is_embedded_once(self, pipeline: Pipeline) -> None:
        pipeline.index(*(pipeline.folder.put(f"{name}.txt", "the same words") for name in "abc"))
        assert pipeline.embedded == 1
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_copy_of_what_is_not_published_yet(self, pipeline: Pipeline) -> None:
        pipeline.look(pipeline.folder.put("a.txt", "the same words"))
        pipeline.look(pipeline.folder.put("b.txt", "the same words"))
        pipeline.build()
        assert pipeline.embedded == 1
        assert pipeline.published() == pipeline.folder.contents()

    def test_there_and_back_again_embeds_each_content_once(self, pipeline: Pipeline) -> None:
        for content in ("one", "two", "one", "two"):
            pipeline.index(pipeline.folder.put("a.txt", content))
            assert pipeline.published() == pipeline.folder.contents()
        assert pipeline.embedded == 2

    def test_a_renamed_folder(self, pipeline: Pipeline) -> None:
        pipeline.index(*(pipeline.folder.put(f"old/{n}.txt", f"text number {n}") for n in range(20)))
        (pipeline.folder.path / "old").rename(pipeline.folder.path / "new")
        pipeline.reconcile()
        assert pipeline.embedded == 20
        assert pipeline.published() == pipeline.folder.contents()

    def test_content_that_cannot_be_reused_any_more_is_embedded_again(self, pipeline: Pipeline) -> None:
        # Given a copy that settled upon the original's rows
        a = pipeline.folder.put("a.txt", "these words")
        pipeline.index(a)
        b = pipeline.folder.put("b.txt", "these words")
        pipeline.look(b)
        # When the original goes and a merge drops its rows before the copy is published
        pipeline.folder.remove("a.txt")
        pipeline.folder.put("c.txt", "keeps a row")
        self.publish_without(pipeline, b, a, pipeline.folder.uri("c.txt"))
        self.collect_shards(pipeline)
        pipeline.build()
        # Then the copy is looked at again
        assert pipeline.handed_over == [[b]]
        embed([b], "backfill")
        pipeline.build()
        assert pipeline.published() == pipeline.folder.contents()
        assert pipeline.embedded == 3

    def publish_without(self, pipeline: Pipeline, held_back: str, *uris: str) -> None:
        pipeline.look(*uris)
        settled = pipeline.context.ledger.settled
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline.context.ledger, "settled", lambda limit: [e for e in settled(limit) if e.uri != held_back])
            pipeline.build()
        rebuild(force=True)

    def collect_shards(self, pipeline: Pipeline) -> None:
        for info in list(pipeline.context.blobs.list("shards/")):
            pipeline.context.blobs.delete(info.name)


class TestOrder:
    def test_a_look_with_an_older_stamp_never_has_the_last_word(self, pipeline: Pipeline) -> None:
        # Given a look that read the old content
        uri = pipeline.folder.put("a.txt", "old content")
        pipeline.notice(uri)
        slow = pipeline.context.ledger.begin([uri])
        seen = embed_module.read(pipeline.context, slow)
        # When a younger one reads and publishes the new content before the first one ends
        pipeline.index(pipeline.folder.put("a.txt", "new content"))
        embed_module.work(pipeline.context, slow, seen)
        pipeline.build()
        # Then
        assert pipeline.published() == pipeline.folder.contents()
        assert pipeline.found("content") == [uri]

    def test_a_look_that_confirms_is_overtaken(self, pipeline: Pipeline) -> None:
        """A → B → A: the young look sees A, which is published, while an older look is about to publish B."""
        uri = pipeline.folder.put("a.txt", "content A")
        pipeline.index(uri)
        pipeline.folder.put("a.txt", "content B")
        pipeline.notice(uri)
        older = pipeline.context.ledger.begin([uri])
        saw_b = embed_module.read(pipeline.context, older)
        pipeline.folder.put("a.txt", "content A")
        pipeline.notice(uri)
        younger = pipeline.context.ledger.begin([uri])
        saw_a = embed_module.read(pipeline.context, younger)

        embed_module.work(pipeline.context, older, saw_b)
        pipeline.build()
        embed_module.work(pipeline.context, younger, saw_a)
        pipeline.build()

        assert pipeline.published() == pipeline.folder.contents()

    def test_the_same_overtaken_by_an_unchanged_version(self, pipeline: Pipeline) -> None:
        """The version alone told that nothing changed. So the freshness of that event is its own, and no older one's."""
        uri = pipeline.folder.put("a.txt", "content A")
        pipeline.index(uri)
        before = entry(pipeline, uri)
        pipeline.notice(uri)
        older = pipeline.context.ledger.begin([uri])
        pipeline.notice(uri)
        younger = pipeline.context.ledger.begin([uri])
        unchanged = embed_module.read(pipeline.context, younger)
        (outcome,) = unchanged.outcomes
        assert outcome.base == before.stamp
        assert outcome.entry.noticed == younger.claimed[0].noticed

        removed = embed_module.Outcome(embed_module.Entry(uri, State.REMOVED, older.stamp))
        assert pipeline.context.ledger.settle(older, [removed])
        pipeline.build()
        assert pipeline.published() == {}
        embed_module.work(pipeline.context, younger, unchanged)
        pipeline.build()

        assert pipeline.published() == pipeline.folder.contents()

    def test_a_document_in_motion_is_looked_at_later(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        still = pipeline.folder.put("still.txt", "other words")
        (source,) = pipeline.context.sources
        read = source.read

        def moving(which: str, known: str = "") -> Any:
            if which == uri:
                raise embed_module.DocumentInMotion("it is being written")
            return read(which, known)

        monkeypatch.setattr(source, "read", moving)
        pipeline.index(uri, still)
        assert pipeline.handed_over == [[uri]]
        assert set(pipeline.published()) == {still}

        monkeypatch.undo()
        embed([uri], "live")
        pipeline.build()
        assert pipeline.published() == pipeline.folder.contents()


class TestDeadLetters:
    BAD: tuple[tuple[str, bytes, str], ...] = (
        ("empty.txt", b" \n", "empty"),
        ("large.txt", b"x" * 2000, "more than the 1000"),
        ("broken.pdf", BROKEN_PDF, ""),
        ("noise.bin", bytes(range(256)) * 3, "not text"),
    )

    @pytest.fixture
    def pipeline(self, opened: Callable[..., Pipeline]) -> Pipeline:
        return opened(max_document_bytes=1000)

    @pytest.mark.parametrize(("name", "data", "reason"), BAD)
    def test_bad_documents_are_dead_and_their_neighbours_are_not(self, pipeline: Pipeline, name: str, data: bytes, reason: str) -> None:
        # Given a good version that is published
        uri = pipeline.folder.put(name, "the last good version")
        neighbour = pipeline.folder.uri("good.txt")
        pipeline.index(uri)
        # When it turns bad beside a good neighbour
        pipeline.folder.put(name, data)
        pipeline.folder.put("good.txt", "a good neighbour")
        pipeline.index(neighbour, uri)
        # Then it is a dead letter with its reason, and the last good version stays
        letter = pipeline.context.ledger.dead_letter(uri)
        assert letter
        assert reason in letter.reason
        assert set(pipeline.published()) == {uri, neighbour}
        assert uri in pipeline.found("last good version")
        assert pipeline.differences() == []  # silent until it changes
        # When it is fixed
        pipeline.folder.put(name, "fixed now")
        pipeline.reconcile()
        # Then no trace is left
        assert pipeline.context.ledger.dead_letter(uri) is None
        assert pipeline.published() == pipeline.folder.contents()

    def test_one_that_was_never_good_is_simply_not_there(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("empty.txt", "")
        pipeline.index(uri)
        assert pipeline.published() == {}
        pipeline.folder.remove("empty.txt")
        assert pipeline.reconcile() == [uri]
        assert pipeline.context.ledger.dead_letter(uri) is None
        assert pipeline.differences() == []

    def test_one_that_goes_takes_its_last_good_version_along(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "the last good version")
        pipeline.index(uri)
        pipeline.folder.put("a.txt", "")
        pipeline.index(uri)
        pipeline.folder.remove("a.txt")
        pipeline.reconcile()
        assert pipeline.published() == {}

    def test_even_if_it_was_to_be_tried_again_just_then(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "the last good version")
        pipeline.index(uri)
        pipeline.folder.put("a.txt", "")
        pipeline.index(uri)
        pipeline.context.ledger.forget(uri)
        pipeline.folder.remove("a.txt")
        pipeline.reconcile()
        assert pipeline.published() == {}

    def test_trying_again_on_request(self, opened: Callable[..., Pipeline]) -> None:
        strict = opened(max_document_bytes=10)
        uri = strict.folder.put("a.txt", "longer than that")
        strict.index(uri)
        assert strict.context.ledger.dead_letter(uri)

        generous = opened()
        assert generous.differences() == []
        generous.context.ledger.forget(uri)
        generous.reconcile()

        assert generous.published() == generous.folder.contents()


class TestCrashes:
    """A worker that dies over a document never settles its attempt. `Killed` ends a task as a kill -9 would."""

    class Killed(BaseException):
        pass

    @pytest.fixture
    def killer(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> str:
        """A document that kills whoever embeds it."""
        real = pipeline.context.embedder.embed

        def embed(texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Any:
            if any("poison" in text for text in texts):
                raise TestCrashes.Killed
            return real(texts, ids)

        monkeypatch.setattr(pipeline.context.embedder, "embed", embed)
        return pipeline.folder.put("killer.txt", "poison")

    def message(self, *uris: str) -> bool:
        """One delivery of the message; whether the worker survived it."""
        try:
            embed(list(uris), "live")
        except TestCrashes.Killed:
            return False
        return True

    def test_a_killer_is_dead_after_the_limit_and_costs_only_itself(self, pipeline: Pipeline, killer: str) -> None:
        good = [pipeline.folder.put(f"{name}.txt", f"good {name}") for name in "az"]
        batch = [good[0], killer, good[1]]
        pipeline.notice(*batch)

        survived = [self.message(*batch) for _ in range(4)]
        pipeline.build()

        assert survived == [False, False, False, True]
        letter = pipeline.context.ledger.dead_letter(killer)
        assert letter
        assert letter.attempts == 3
        assert set(pipeline.published()) == set(good)

    def test_changing_it_heals_it(self, pipeline: Pipeline, killer: str) -> None:
        pipeline.notice(killer)
        while not self.message(killer):
            pass
        pipeline.folder.put("killer.txt", "harmless now")
        pipeline.reconcile()
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_document_that_makes_the_code_fail_is_dead_and_its_neighbours_are_not(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = pipeline.context.splitter.split_many

        def fails(texts: Sequence[str]) -> Any:
            if any("strange" in text for text in texts):
                raise ValueError("a bug of ours")
            return real(texts)

        monkeypatch.setattr(pipeline.context.splitter, "split_many", fails)
        bad = pipeline.folder.put("m.txt", "strange")
        good = [pipeline.folder.put(f"{name}.txt", f"good {name}") for name in "az"]

        pipeline.index(good[0], bad, good[1])

        assert set(pipeline.published()) == set(good)
        letter = pipeline.context.ledger.dead_letter(bad)
        assert letter
        assert "a bug of ours" in letter.reason
        assert "ValueError" in letter.detail

    @pytest.mark.parametrize("outages", [5])
    def test_infrastructure_that_is_away_is_no_documents_fault(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, outages: int
    ) -> None:
        uris = [pipeline.folder.put(f"{name}.txt", f"good {name}") for name in "ab"]
        put = pipeline.context.blobs.put

        def away(name: str, *args: Any, **more: Any) -> str:
            raise Unavailable("the bucket does not answer")

        monkeypatch.setattr(pipeline.context.blobs, "put", away)
        pipeline.notice(*uris)
        for _ in range(outages):
            with pytest.raises(Unavailable):
                embed(uris, "live")
        monkeypatch.setattr(pipeline.context.blobs, "put", put)
        embed(uris, "live")
        pipeline.build()

        assert list(pipeline.context.ledger.dead_letters()) == []
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_source_that_is_away_removes_nothing(self, pipeline: Pipeline) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.index(uri)
        pipeline.folder.path.rename(pipeline.root / "unmounted")
        pipeline.notice(uri)
        with pytest.raises(Unavailable):
            embed([uri], "live")
        pipeline.build()
        (pipeline.root / "unmounted").rename(pipeline.folder.path)
        assert pipeline.published() == pipeline.folder.contents()


class TestLoss:
    def test_a_flush_between_embed_and_build(self, pipeline: Pipeline, redis_client: Redis) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "published"))
        pipeline.look(pipeline.folder.put("b.txt", "settled"))
        redis_client.flushall()

        assert pipeline.build() == "nothing settled"
        assert set(pipeline.published()) == {pipeline.folder.uri("a.txt")}

        assert pipeline.reconcile() == [pipeline.folder.uri("b.txt")]
        assert pipeline.published() == pipeline.folder.contents()
        assert pipeline.embedded == 1  # the count was flushed, too: only b is embedded again

    def test_a_look_that_began_before_the_flush_settles_nothing(self, pipeline: Pipeline, redis_client: Redis) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.notice(uri)
        look = pipeline.context.ledger.begin([uri])
        seen = embed_module.read(pipeline.context, look)
        redis_client.flushall()
        pipeline.context.seed()
        embed_module.work(pipeline.context, look, seen)
        assert pipeline.build() == "nothing settled"
        assert pipeline.published() == {}

    def test_a_flush_in_the_middle_of_a_build_hides_nothing_it_published(
        self, pipeline: Pipeline, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The new memory was taught before the generation appeared, so nobody but the build can tell it what is in there."""
        kept, uri = pipeline.folder.put("kept.txt", "kept"), pipeline.folder.put("a.txt", "words")
        pipeline.look(kept, uri)
        real = Swap.publish

        def flushed(swap: Swap, draft: Any) -> Any:
            redis_client.flushall()
            pipeline.context.seed()
            return real(swap, draft)

        monkeypatch.setattr(Swap, "publish", flushed)
        pipeline.build()
        monkeypatch.undo()
        assert set(pipeline.published()) == {uri, kept}

        pipeline.folder.remove("a.txt")
        pipeline.reconcile()

        assert pipeline.published() == pipeline.folder.contents()

    def test_a_crash_between_publication_and_its_record(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline.look(pipeline.folder.put("a.txt", "words"))
        monkeypatch.setattr(Ledger, "published", lambda *_: (_ for _ in ()).throw(TestCrashes.Killed))
        with pytest.raises(TestCrashes.Killed):
            pipeline.build()
        monkeypatch.undo()

        pipeline.build()

        assert pipeline.manifest().generation == 1
        assert pipeline.context.ledger.counts()["settled"] == 0
        assert pipeline.published() == pipeline.folder.contents()

    @pytest.mark.parametrize("damage", [b"", b"garbage", None])
    def test_a_lost_or_damaged_shard_is_embedded_again(self, pipeline: Pipeline, damage: bytes | None) -> None:
        uri = pipeline.folder.put("a.txt", "words")
        pipeline.look(uri)
        shard = Path(str(pipeline.context.blobs.url).removeprefix("file:")) / entry(pipeline, uri).shard
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)

        pipeline.build()
        assert pipeline.handed_over == [[uri]]
        embed([uri], "backfill")
        pipeline.build()

        assert pipeline.published() == pipeline.folder.contents()

    def test_many_lost_shards_are_handed_over_in_batches(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(max_batch=4)
        uris = [pipeline.folder.put(f"{n}.txt", f"text number {n}") for n in range(10)]
        pipeline.look(*uris)
        TestReuse().collect_shards(pipeline)
        pipeline.build()
        assert sorted(len(batch) for batch in pipeline.handed_over) == [2, 4, 4]

    def test_everything_lost_but_the_index_embeds_nothing(self, pipeline: Pipeline, redis_client: Redis) -> None:
        pipeline.index(*(pipeline.folder.put(f"{n}.txt", f"text number {n}") for n in range(10)))
        redis_client.flushall()
        TestReuse().collect_shards(pipeline)
        pipeline.folder.rename("1.txt", "moved.txt")
        pipeline.reconcile()
        assert pipeline.embedded == 0
        assert pipeline.published() == pipeline.folder.contents()


class TestBuilding:
    def test_a_busy_builder_is_told_to_look_again(self, pipeline: Pipeline) -> None:
        pipeline.look(pipeline.folder.put("a.txt", "words"))
        lease = build_module.Lease(pipeline.context.redis, f"{pipeline.context.ledger.namespace}:build", 30)
        assert lease.acquire()
        assert build() == "coalesced"
        assert not lease.release_unless_wanted()  # the wish is met by whoever builds
        lease.release()
        assert build() == "generation 1"

    def test_what_settles_during_a_build_is_in_the_next(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = pipeline.folder.put("a.txt", "one"), pipeline.folder.put("b.txt", "two")
        pipeline.look(first)
        real, late = Swap.publish, [second]

        def meanwhile(swap: Swap, draft: Any) -> Any:
            if late:
                pipeline.look(late.pop())
            return real(swap, draft)

        monkeypatch.setattr(Swap, "publish", meanwhile)
        assert pipeline.build() == "generation 2"
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_builder_that_loses_the_race_drafts_again(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline.look(pipeline.folder.put("a.txt", "one"))
        real, rivals = Swap.publish, [1]

        def raced(swap: Swap, draft: Any) -> Any:
            if rivals:
                rivals.pop()
                other = Context(pipeline.context.settings)
                pipeline.look(pipeline.folder.put("b.txt", "two"))
                publish_settled(other)
                other.redis.close()
            return real(swap, draft)

        monkeypatch.setattr(Swap, "publish", raced)
        pipeline.build()
        assert pipeline.published() == pipeline.folder.contents()

    def test_one_that_always_loses_gives_up_and_lets_go(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline.look(pipeline.folder.put("a.txt", "one"))

        def lost(swap: Swap, draft: Any) -> Any:
            raise Conflict("somebody was faster")

        monkeypatch.setattr(Swap, "publish", lost)
        with pytest.raises(Unavailable):
            pipeline.build()
        monkeypatch.undo()
        assert pipeline.build().startswith("generation")

    def test_a_held_index_waits(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "one"))
        pipeline.index(pipeline.folder.put("b.txt", "two"))
        upkeep.rollback(Home(pipeline.context.blobs), 1)
        pipeline.look(pipeline.folder.put("c.txt", "three"))
        assert pipeline.build() == "held"
        assert set(pipeline.published()) == {pipeline.folder.uri("a.txt")}

        upkeep.resume(Home(pipeline.context.blobs))
        pipeline.build()

        assert pipeline.folder.uri("c.txt") in pipeline.published()

    def test_generations_are_paced(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(build_interval=0.3)
        for name in "ab":
            pipeline.index(pipeline.folder.put(f"{name}.txt", name))
        first, second = (manifest.created_at for manifest in reversed(Home(pipeline.context.blobs).generations()))
        assert second - first >= 0.29

    def test_a_generation_has_bounded_passages(self) -> None:
        entries = [embed_module.Entry(str(n), State.PRESENT, n, passages=n) for n in (50, 0, 49, 1, 1000)]
        assert [e.passages for e in bounded(entries, 100)] == [50, 0, 49]
        assert bounded(entries[4:], 100) == entries[4:]
        assert bounded([], 100) == []


class TestRecipes:
    def complete(self, pipeline: Pipeline) -> None:
        """What the relay notes when every source was listed and every difference handed over."""
        pipeline.context.ledger.note("reconciled", str(time.time()))

    def test_a_new_recipe_is_built_beside_and_served_when_complete(self, opened: Callable[..., Pipeline]) -> None:
        old = opened()
        old.index(*(old.folder.put(f"{n}.txt", f"text number {n}") for n in range(3)))
        before = old.manifest()
        # Given other settings, half of whose index is built
        new = opened(passage_tokens=50)
        first, *rest = [event.uri for event in new.differences()]
        new.index(first)
        assert new.manifest() == before  # readers see the old index
        # When it is complete
        new.look(*rest)
        new.build()
        assert new.manifest() == before  # nobody has said yet that this was all
        self.complete(new)
        new.build()
        # Then it is served, the ledger knows that, and building goes on there
        assert new.manifest().recipe == new.context.recipe != before.recipe
        assert new.context.ledger.noted("generation") == str(new.manifest().generation)
        assert new.published() == new.folder.contents()
        new.index(new.folder.put("late.txt", "a late one"))
        assert new.published() == new.folder.contents()

    def test_and_back_again(self, opened: Callable[..., Pipeline]) -> None:
        """The old recipe's ledger remembers an index that is served no longer: it must not be taken for complete."""
        one = opened()
        one.index(*(one.folder.put(f"{n}.txt", f"text number {n}") for n in range(3)))
        self.complete(one)
        two = opened(passage_tokens=50)
        two.reconcile()
        self.complete(two)
        two.build()
        assert two.manifest().recipe == two.context.recipe

        again = opened()
        again.build()
        assert again.manifest().recipe == two.context.recipe
        again.reconcile()
        self.complete(again)
        again.build()

        assert again.manifest().recipe == again.context.recipe
        assert again.published() == again.folder.contents()

    def test_a_rollback_to_another_recipe_is_not_undone_by_the_next_document(self, opened: Callable[..., Pipeline]) -> None:
        old = opened()
        old.index(*(old.folder.put(f"{n}.txt", f"text number {n}") for n in range(3)))
        new = opened(passage_tokens=50)
        new.reconcile()
        self.complete(new)
        new.build()

        upkeep.rollback(Home(new.context.blobs), 1)
        new.index(new.folder.put("late.txt", "a late one"))
        self.complete(new)
        new.build()

        assert new.manifest().held
        assert len(new.published()) == 3

    def test_a_new_recipe_without_any_document_serves_nothing_new(self, opened: Callable[..., Pipeline]) -> None:
        new = opened(passage_tokens=50)
        self.complete(new)
        assert new.build() == "nothing settled"
        old = opened()
        old.index(old.folder.put("a.txt", "words"))
        old.folder.remove("a.txt")
        emptied = opened(passage_tokens=60)
        emptied.reconcile()
        self.complete(emptied)
        assert emptied.build() == "nothing settled"


class TestMaintenance:
    def test_merge_and_rebuild_keep_every_document(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(merge_factor=2)
        for number in range(6):
            pipeline.index(pipeline.folder.put(f"{number}.txt", f"text number {number}"))
        pipeline.folder.remove("3.txt")
        pipeline.index(pipeline.folder.uri("3.txt"))
        merge()
        assert len(pipeline.manifest().segments) < 6
        assert pipeline.published() == pipeline.folder.contents()
        rebuild()
        assert len(pipeline.manifest().segments) == 1
        assert pipeline.published() == pipeline.folder.contents()

    def test_a_second_rebuild_within_the_period_does_nothing(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "one"))
        rebuild()
        pipeline.index(pipeline.folder.put("b.txt", "two"))
        rebuild()
        assert len(pipeline.manifest().segments) == 2
        rebuild(force=True)
        assert len(pipeline.manifest().segments) == 1

    def test_cleanup_keeps_what_is_served_and_what_waits(self, opened: Callable[..., Pipeline]) -> None:
        pipeline = opened(orphan_seconds=0, keep_generations=1)
        for number in range(3):
            pipeline.index(pipeline.folder.put(f"{number}.txt", f"text number {number}"))
        rebuild(force=True)
        pipeline.look(pipeline.folder.put("waits.txt", "settled and not published"))
        cleanup()
        assert len(list(pipeline.context.blobs.list("manifests/"))) == 1
        pipeline.build()
        assert pipeline.handed_over == []
        assert pipeline.published() == pipeline.folder.contents()
        cleanup()
        assert list(pipeline.context.blobs.list("shards/")) == []
        # and contents are still recognised, as they are in the index
        before = pipeline.embedded
        pipeline.index(pipeline.folder.put("copy.txt", "settled and not published"))
        assert pipeline.embedded == before

    def test_statistics_and_the_wish_for_a_reconcile(self, pipeline: Pipeline) -> None:
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        statistics()
        assert '"published_documents": 1' in pipeline.context.ledger.noted("statistics")
        reconcile()
        assert pipeline.context.ledger.take_note("reconcile") == DUE

    def test_publish_brings_the_served_generation_to_a_mirror_and_no_older_one(
        self, opened: Callable[..., Pipeline], tmp_path: Path
    ) -> None:
        pipeline = opened(mirrors=f"file:{tmp_path / 'mirror'}")
        pipeline.index(pipeline.folder.put("a.txt", "words"))
        (sink,) = (name for name in pipeline.context.sinks if name != "announce")
        publish(sink, 1)
        publish(sink, 1)
        publish(sink, 99)
        publish("no such sink", 1)
        assert (tmp_path / "mirror" / "CURRENT").read_bytes() == (tmp_path / "index" / "CURRENT").read_bytes()


def test_a_look_at_nothing_is_quiet(pipeline: Pipeline) -> None:
    assert embed([], "live") == "0 documents"
    assert pipeline.context.ledger.begin([]) == Look("", 0, ())
