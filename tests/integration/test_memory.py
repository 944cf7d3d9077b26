"""The ledger and the index must agree on what is published, whichever of them forgets, and whoever publishes meanwhile.

A ledger that takes another generation for the served one passes a document for unchanged that came back as it was before,
and never removes one that it has not heard of. The tests play that step by step, with documents that are `before`, then
`after`, then `before` again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from redis import Redis

from pipeline.base.model import Entry, State
from pipeline.context import Context
from pipeline.index.draft import Draft
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.sources.folder import source as folder
from pipeline.tasks.build import build, publish_settled
from pipeline.tasks.merge import rebuild
from tests.support import Pipeline, broker_of

ONE, TWO, THREE = "the first words", "other words, and more of them", "something else altogether, and longer again"
Documents = Mapping[str, str]

CHANGED: tuple[Documents, Documents] = ({"a.txt": ONE}, {"a.txt": TWO})
REMOVED: tuple[Documents, Documents] = ({"a.txt": ONE}, {})
ADDED: tuple[Documents, Documents] = ({"kept.txt": TWO}, {"kept.txt": TWO, "a.txt": ONE})
FIRST_OF_ALL: tuple[Documents, Documents] = ({}, {"a.txt": ONE})

stories = pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(*CHANGED, id="changed"),
        pytest.param(*REMOVED, id="removed"),
        pytest.param(*ADDED, id="added"),
        pytest.param(*FIRST_OF_ALL, id="first-of-all"),
    ],
)


class Killed(BaseException):
    """Ends a task as a kill -9 would."""


def version_by_size(status: os.stat_result) -> str:
    """As a bucket tells it: equal bytes, equal version, whenever they were written. The sizes of these contents differ."""
    return f"{status.st_size:x}"


@pytest.fixture
def pipeline(tmp_path: Path, valkey: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(folder, "version_of", version_by_size)
    with Pipeline(tmp_path, broker_of(valkey)) as running:
        yield running


def arrange(pipeline: Pipeline, documents: Documents) -> list[str]:
    """Make the folder hold exactly these documents. Returns the uris of what had to change."""
    there = {path.name: path.read_text() for path in pipeline.folder.path.iterdir()}
    gone = [pipeline.folder.remove(name) for name in there.keys() - documents.keys()]
    return gone + [pipeline.folder.put(name, text) for name, text in documents.items() if there.get(name) != text]


def once_at_the_pointer(monkeypatch: pytest.MonkeyPatch, act: Callable[[Callable[[], Manifest]], Manifest]) -> None:
    """The next publication does `act` instead of moving the pointer; what `act` is given moves it."""
    real = Home.commit

    def commit(home: Home, draft: Draft) -> Manifest:
        monkeypatch.setattr(Home, "commit", real)
        return act(lambda: real(home, draft))

    monkeypatch.setattr(Home, "commit", commit)


@pytest.mark.parametrize("seen_meanwhile", [False, True], ids=["", "seen-meanwhile"])
@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
@stories
def test_a_flush_under_a_build_that_publishes_all_the_same(
    pipeline: Pipeline,
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    before: Documents,
    after: Documents,
    killed: bool,
    seen_meanwhile: bool,
) -> None:
    # Given a build that is about to publish
    pipeline.index(*arrange(pipeline, before))
    pipeline.look(*arrange(pipeline, after))

    def flushed(move: Callable[[], Manifest]) -> Manifest:
        # When its ledger is flushed and taught what is published, and what it was about to publish is undone
        redis_client.flushall()
        pipeline.context.seed()
        if seen_meanwhile:
            pipeline.look(*arrange(pipeline, before))
        manifest = move()
        if killed:
            raise Killed
        return manifest

    once_at_the_pointer(monkeypatch, flushed)
    with suppress(Killed):
        build()
    arrange(pipeline, before)
    # Then the next build finds out, and the listing finds the rest
    pipeline.build()
    pipeline.reconcile()
    assert pipeline.published() == pipeline.folder.contents()


@stories
def test_the_next_builder_does_not_cover_that_up(
    pipeline: Pipeline, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, before: Documents, after: Documents
) -> None:
    # Given a builder with the new memory that has looked at the index before the old one's generation appears
    pipeline.index(*arrange(pipeline, before))
    pipeline.look(*arrange(pipeline, after))
    another = Context(pipeline.context.settings)
    settled = another.ledger.settled

    def flushed(move: Callable[[], Manifest]) -> Manifest:
        redis_client.flushall()
        arrange(pipeline, before)
        pipeline.look(pipeline.folder.put("late.txt", THREE))

        def too_late(limit: int) -> list[Entry]:
            monkeypatch.setattr(another.ledger, "settled", settled)
            entries = settled(limit)
            move()
            return entries

        monkeypatch.setattr(another.ledger, "settled", too_late)
        # When it publishes upon that
        publish_settled(another)
        another.redis.close()
        raise Killed

    once_at_the_pointer(monkeypatch, flushed)
    with pytest.raises(Killed):
        build()
    # Then
    pipeline.build()
    pipeline.reconcile()
    assert pipeline.published() == pipeline.folder.contents()


@stories
def test_a_server_that_lost_its_last_second(pipeline: Pipeline, valkey: str, before: Documents, after: Documents) -> None:
    """After a power cut, or a failover to a replica that lagged, the ledger is what it was before the last generation."""
    pipeline.context.seed()
    pipeline.index(*arrange(pipeline, before))
    with Redis.from_url(valkey) as server:
        kept = {key: server.dump(key) for key in server.scan_iter()}
        pipeline.index(*arrange(pipeline, after))
        server.flushall()
        for key, value in kept.items():
            server.restore(key, 0, value)
    arrange(pipeline, before)

    pipeline.build()
    pipeline.reconcile()

    assert pipeline.published() == pipeline.folder.contents()


def test_a_builder_that_died_after_the_pointer_moved_costs_no_memory(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.index(pipeline.folder.put("a.txt", ONE))
    epoch = pipeline.context.ledger.epoch()
    pipeline.look(pipeline.folder.put("b.txt", TWO))

    def killed(move: Callable[[], Manifest]) -> Manifest:
        move()
        raise Killed

    once_at_the_pointer(monkeypatch, killed)
    with pytest.raises(Killed):
        build()
    rebuild(force=True)  # and a merge comes upon it

    pipeline.build()

    assert pipeline.context.ledger.epoch() == epoch
    assert pipeline.context.ledger.counts()["settled"] == 0
    assert pipeline.published() == pipeline.folder.contents()
    assert len(list(pipeline.context.home.generations())) == 3


def test_one_teacher_at_a_time(pipeline: Pipeline, redis_client: Redis) -> None:
    """Two that teach what they found published at different moments would mix it up."""
    pipeline.index(pipeline.folder.put("a.txt", ONE))
    redis_client.flushall()
    ledger = pipeline.context.ledger
    teacher = Lease(redis_client, f"{ledger.namespace}:seed", 30)
    assert teacher.acquire()
    second = Thread(target=pipeline.context.seed)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert not ledger.entries([pipeline.folder.uri("a.txt")])[0]
    teacher.release()
    second.join()
    assert ledger.entries([pipeline.folder.uri("a.txt")])[0]


def test_a_teacher_that_died_half_way_leaves_nothing_behind(pipeline: Pipeline, redis_client: Redis) -> None:
    pipeline.index(pipeline.folder.put("a.txt", ONE))
    redis_client.flushall()
    ledger = pipeline.context.ledger
    ledger.seed([Entry(pipeline.folder.uri("ghost.txt"), State.PRESENT, 1, version="1", content_hash="f" * 64)])
    redis_client.delete(f"{ledger.namespace}:epoch")

    pipeline.context.seed()

    assert [entry.uri for entry in ledger.known("")] == [pipeline.folder.uri("a.txt")]


class TestOvertaken:
    """A removal leaves nothing in the index that an older change could be compared with."""

    def test_a_document_that_another_builder_removed_meanwhile_stays_away(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a builder that has read of a document
        kept = pipeline.folder.put("kept.txt", TWO)
        pipeline.look(pipeline.folder.put("a.txt", ONE), kept)
        ledger, settled = pipeline.context.ledger, pipeline.context.ledger.settled

        def overtaken(limit: int) -> list[Entry]:
            # When the document goes, and another builder publishes that first
            monkeypatch.setattr(ledger, "settled", settled)
            entries = settled(limit)
            pipeline.look(pipeline.folder.remove("a.txt"))
            another = Context(pipeline.context.settings)
            publish_settled(another)
            another.redis.close()
            return entries

        monkeypatch.setattr(ledger, "settled", overtaken)
        pipeline.build()
        # Then it does not come back
        assert set(pipeline.published()) == {kept}

    def test_one_whose_removal_has_only_settled_is_left_to_the_next_generation(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uri = pipeline.folder.put("a.txt", ONE)
        pipeline.look(uri)
        ledger, settled = pipeline.context.ledger, pipeline.context.ledger.settled

        def overtaken(limit: int) -> list[Entry]:
            monkeypatch.setattr(ledger, "settled", settled)
            entries = settled(limit)
            pipeline.look(pipeline.folder.remove("a.txt"))
            return entries

        monkeypatch.setattr(ledger, "settled", overtaken)
        pipeline.build()
        assert pipeline.published() == {}
        assert ledger.counts()["settled"] == 0


def test_a_ledger_that_forgot_intends_nothing(pipeline: Pipeline, redis_client: Redis) -> None:
    ledger: Ledger = pipeline.context.ledger
    epoch = pipeline.context.seed()
    assert ledger.intend(epoch, "manifests/1")
    redis_client.flushall()
    assert not ledger.intend(epoch, "manifests/2")
    pipeline.context.seed()
    assert not ledger.intend(epoch, "manifests/2")
    assert ledger.noted("intent") == ""


def test_a_memory_that_is_thrown_away_takes_its_intent_along(pipeline: Pipeline) -> None:
    ledger: Any = pipeline.context.ledger
    ledger.intend(pipeline.context.seed(), "manifests/1")
    ledger.clear()
    assert ledger.noted("intent") == ""
