"""Whatever happens in whatever order, in the end the index says what the folder says.

Hypothesis drops, changes, renames and removes documents, loses, doubles and reorders messages, lets looks end late, kills
tasks between any two of their steps, flushes Redis, and lets all of that happen in the middle of builds and merges.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from pipeline.index.home import Home
from pipeline.index.snapshot import Snapshot
from pipeline.ledger import ledger as ledger_module
from pipeline.ledger.ledger import Look
from pipeline.sinks.swap import Swap
from pipeline.sources.folder import source as folder_module
from pipeline.tasks import embed as embed_module
from pipeline.tasks.build import build
from pipeline.tasks.embed import Reading, embed
from pipeline.tasks.maintenance import cleanup
from pipeline.tasks.merge import merge, rebuild
from tests.support import Pipeline, broker_of

NAMES = ("a.txt", "d/ä b.txt", "c.txt")
"""So few that most of what happens happens to the same document."""

CONTENTS = ("", "white whale", "grey cat sleeps", "the whale sleeps at noon")
"""All of different lengths, as two versions of one length within a tick of the clock cannot be told apart. The first is bad."""

QUERIES = ("whale", "cat", "noon sleeps", "grey")

names, contents, coins, numbers = st.sampled_from(NAMES), st.sampled_from(CONTENTS), st.booleans(), st.integers(0, 7)
"""Everything is drawn before it is used, and nothing that is drawn depends on what happened: claims expire by the clock."""


class Killed(BaseException):
    """A kill -9: nothing below can catch it, and nothing is tidied up."""


class FolderAndIndex(RuleBasedStateMachine):
    """One folder, one pipeline, and everything that can go wrong between them."""

    broker: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/tmp"))
        self.pipeline = Pipeline(self.root, self.broker, merge_factor=2, orphan_seconds=0, keep_generations=1, max_attempts=10**6)
        self.pipeline.__enter__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ledger_module, "CLAIM_SECONDS", 0.01)  # the dead don't keep the living waiting
        self.patch.setattr(folder_module, "TICK", 0.0)
        self.context, self.folder, self.ledger = self.pipeline.context, self.pipeline.folder, self.pipeline.context.ledger
        self.context.redis.flushall()
        self.messages: list[list[str]] = []
        self.loses = True
        self.looks: list[tuple[Look, Reading]] = []

    def teardown(self) -> None:
        try:
            self.settle_down()
        finally:
            self.patch.undo()
            self.pipeline.__exit__(None, None, None)
            shutil.rmtree(self.root)

    @initialize(loses=coins)
    def begin(self, loses: bool) -> None:
        """Where nothing is ever lost, the events alone must do, without a listing that makes up for what went wrong."""
        self.loses = loses

    # People -------------------------------------------------------------------------------------------------------

    def tell(self, *uris: str, lost: bool = False) -> None:
        """An event: noticed and handed over, as the relay does it, or lost on its way."""
        if uris and not (lost and self.loses):
            self.pipeline.notice(*uris)
            self.messages.append(list(uris))

    @rule(name=names, content=contents, lost=coins)
    def put(self, name: str, content: str, lost: bool) -> None:
        self.tell(self.folder.put(name, content), lost=lost)

    @rule(some=st.lists(st.tuples(names, contents), min_size=2, max_size=4))
    def put_several(self, some: list[tuple[str, str]]) -> None:
        self.tell(*dict.fromkeys([self.folder.put(name, content) for name, content in some]))

    @rule(name=names, lost=coins)
    def remove(self, name: str, lost: bool) -> None:
        if (self.folder.path / name).exists():
            self.tell(self.folder.remove(name), lost=lost)

    @rule(old=names, new=names, lost=coins)
    def rename(self, old: str, new: str, lost: bool) -> None:
        if (self.folder.path / old).exists() and old != new:
            self.tell(*self.folder.rename(old, new), lost=lost)

    @precondition(lambda self: self.loses)
    @rule()
    def rename_folder(self) -> None:
        """Only a listing can tell."""
        here, there = self.folder.path / "d", self.folder.path / "moved"
        if here.exists() != there.exists():
            here.rename(there) if here.exists() else there.rename(here)

    # Messages -----------------------------------------------------------------------------------------------------

    def take(self, which: int) -> list[str]:
        """Any message, so they overtake each other; nothing, where there is none."""
        return self.messages.pop(which % len(self.messages)) if self.messages else []

    @rule(which=numbers)
    def double(self, which: int) -> None:
        message = self.take(which)
        self.messages += [message, message]

    @precondition(lambda self: self.loses)
    @rule(which=numbers)
    def lose(self, which: int) -> None:
        self.take(which)

    @rule(which=numbers)
    def deliver(self, which: int) -> None:
        embed(self.take(which), "live")

    # Workers ------------------------------------------------------------------------------------------------------

    @rule(which=numbers)
    def look(self, which: int) -> None:
        """Begin and read now; settle when everything is different."""
        look = self.ledger.begin(self.take(which))
        self.looks.append((look, embed_module.read(self.context, look)))

    @rule(which=numbers)
    def settle(self, which: int) -> None:
        if self.looks:
            embed_module.work(self.context, *self.looks.pop(which % len(self.looks)))

    @rule(which=numbers, step=st.sampled_from(("begin", "attempt", "put", "settle")), after=coins)
    def kill_a_look(self, which: int, step: str, after: bool) -> None:
        owner, message = self.context.blobs if step == "put" else self.ledger, self.take(which)
        with self.killing(owner, step, after):
            embed(message, "live")
        self.messages.append(message)  # it was not acknowledged

    @rule()
    def build(self) -> None:
        build()

    @rule(step=st.sampled_from(("publish", "commit", "published", "renotice", "settled")), after=coins)
    def kill_a_build(self, step: str, after: bool) -> None:
        owners: dict[str, Any] = {"publish": Swap, "commit": Home}
        with self.killing(owners.get(step, self.ledger), step, after):
            build()

    @rule(
        which=numbers,
        name=names,
        content=contents,
        what=st.sampled_from(("flush", "put", "deliver", "settle", "merge", "build", "cleanup")),
    )
    def build_meanwhile(self, which: int, name: str, content: str, what: str) -> None:
        """Something happens after the draft and before its publication."""
        with self.before_publication(lambda: self.happens(what, which, name, content)):
            build()

    @rule(which=numbers, name=names, content=contents, what=st.sampled_from(("put", "deliver", "settle", "build")))
    def merge_meanwhile(self, which: int, name: str, content: str, what: str) -> None:
        with self.before_publication(lambda: self.happens(what, which, name, content)):
            merge()

    @rule(whole=coins)
    def merge(self, whole: bool) -> None:
        rebuild(force=True) if whole else merge()

    @rule()
    def cleanup(self) -> None:
        cleanup()

    @precondition(lambda self: self.loses)
    @rule()
    def reconcile(self) -> None:
        uris = [event.uri for event in self.pipeline.differences()]
        self.tell(*uris)

    @precondition(lambda self: self.loses)
    @rule(queue_too=coins)
    def flush(self, queue_too: bool) -> None:
        self.context.redis.flushall()
        if queue_too:
            self.messages.clear()

    # How it is done -----------------------------------------------------------------------------------------------

    def happens(self, what: str, which: int, name: str, content: str) -> None:
        match what:
            case "flush" if self.loses:
                self.context.redis.flushall()
                self.context.seed()
            case "put":
                self.pipeline.look(self.folder.put(name, content))
            case "deliver":
                self.deliver(which)
            case "settle":
                self.settle(which)
            case "merge":
                rebuild(force=True)
            case "build":  # a second builder that believes it has the lease
                self.context.redis.delete(f"{self.ledger.namespace}:build")
                build()
            case "cleanup":
                cleanup()

    @contextmanager
    def killing(self, owner: Any, step: str, after: bool) -> Iterator[None]:
        """The task dies before or after its first such step, and lets go of nothing that only a living process can let go of."""
        real, call = getattr(owner, step), self.ledger._call

        def dies(*args: Any, **more: Any) -> Any:
            if after:
                real(*args, **more)
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, step, dies)
            patch.setattr(self.ledger, "_call", lambda script, *args: None if script == "release" else call(script, *args))
            with suppress(Killed):
                yield

    @contextmanager
    def before_publication(self, happens: Callable[[], None]) -> Iterator[None]:
        real, left = Swap.publish, [happens]

        def publish(swap: Swap, draft: Any) -> Any:
            if left:
                left.pop()()
            return real(swap, draft)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Swap, "publish", publish)
            yield

    # What must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def served_documents_are_whole(self) -> None:
        """At any moment a reader finds one content per document, and one that was dropped there at some time."""
        home = Home(self.context.blobs)
        found = home.current()
        uris = [document.uri for document in Snapshot.open(home, found[0]).documents()] if found else []
        assert len(uris) == len(set(uris))

    def settle_down(self) -> None:
        """No more trouble: what is under way ends, then listings until nothing differs and nothing waits."""
        while self.looks:
            embed_module.work(self.context, *self.looks.pop())
        for message in self.messages:
            embed(message, "live")
        for _ in range(6):
            build()
            left = self.left()
            if not left:
                break
            self.pipeline.look(*left)
        counts = self.ledger.counts()
        assert (counts["noticed"], counts["settled"], left) == (0, 0, set())
        self.compare()

    def left(self) -> set[str]:
        """What the relay would hand over again; where events were lost, what the listing tells, too."""
        unanswered = set(self.ledger.unanswered(""))
        return unanswered | {event.uri for event in self.pipeline.differences()} if self.loses else unanswered

    def compare(self) -> None:
        bad = {uri for uri in self.folder.contents() if not self.text(uri).strip()}
        served = {uri: digest for uri, digest in self.pipeline.published().items() if uri not in bad}
        assert served == {uri: digest for uri, digest in self.folder.contents().items() if uri not in bad}
        assert {letter.uri for letter in self.ledger.dead_letters()} == bad
        self.answers(served)

    def text(self, uri: str) -> str:
        return (self.folder.path / uri.removeprefix(self.folder.root)).read_text()

    def answers(self, served: dict[str, str]) -> None:
        """The index, grown piece by piece, answers as one that is computed from the folder at once."""
        found = Home(self.context.blobs).current()
        if not found:
            assert not served
            return
        snapshot = Snapshot.open(Home(self.context.blobs), found[0])
        uris = sorted(served)
        vectors = self.context.embedder.embed([self.text(uri) for uri in uris])
        for query in self.context.embedder.embed(QUERIES):
            hits = [hit for hit in snapshot.search(query, k=50)[0] if hit.uri in served]
            scores = dict(zip(uris, (vectors @ query).tolist(), strict=True))
            assert sorted(hit.uri for hit in hits) == uris
            np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.uri] for hit in hits], atol=2e-3)
            np.testing.assert_allclose([hit.score for hit in hits], sorted(scores.values(), reverse=True), atol=2e-3)


def test_the_index_says_what_the_folder_says(valkey: str) -> None:
    FolderAndIndex.broker = broker_of(valkey)
    run_state_machine_as_test(
        FolderAndIndex,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
