"""Whatever happens to an index, in whatever order, it holds and answers what a dictionary would."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_support import Index, assert_answers, brute_force, document, facts_of, vectors_of

from pipeline.index.draft import Add, Change, Copy, Remove
from pipeline.index.snapshot import Filter, Snapshot
from pipeline.index.upkeep import gc, resume, rollback

URIS = st.sampled_from([f"{folder}/{name}" for folder in "ab" for name in "12345"])
WORDS = st.sampled_from(["apple", "pear", "plum", "fig", "lime", "kiwi"])
KINDS = st.sampled_from(["add", "add", "copy", "remove"])
LATE = st.integers(0, 6)
"""How many stamps too late a change arrives: it was stamped before the ones that overtook it."""

Changes = list[tuple[str, str, str, int]]
CHANGES = st.lists(st.tuples(KINDS, URIS, WORDS, LATE), min_size=1, max_size=6)


class IndexMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dropdex-state-"))
        self.index = Index(self.root, {"merge_factor": 3})
        self.model: dict[str, tuple[int, str]] = {}
        self.history: dict[int, dict[str, tuple[int, str]]] = {}
        self.opened: Snapshot | None = None

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return
        self.incrementally_built_answers_as_a_full_rebuild_does()
        shutil.rmtree(self.root)

    @property
    def live(self) -> dict[str, str]:
        return {uri: word for uri, (_, word) in self.model.items()}

    def change(self, kind: str, uri: str, word: str, late: int) -> Change:
        stamp = max(1, next(self.index.stamps) - late)
        if kind == "remove":
            return Remove(uri, stamp)
        return Copy(facts_of(uri, word, stamp)) if kind == "copy" else Add(document(uri, word, stamp))

    def publish(self, changes: list[Change]) -> None:
        known = set(self.live.values()) | {
            change.document.content_hash.removeprefix("hash of ") for change in changes if isinstance(change, Add)
        }
        draft = self.index.writer.draft(changes)
        missing = draft.missing if draft else ()
        newest: dict[str, Change] = {}
        for change in changes:
            if change.uri not in newest or newest[change.uri].stamp <= change.stamp:
                newest[change.uri] = change
        for uri, change in newest.items():
            if uri in self.model and change.stamp <= self.model[uri][0]:
                assert uri not in missing
            elif isinstance(change, Remove):
                self.model.pop(uri, None)
            elif uri in missing:
                assert isinstance(change, Copy)
                assert change.document.content_hash.removeprefix("hash of ") not in known
            else:
                self.model[uri] = (change.stamp, change.document.content_hash.removeprefix("hash of "))
        if draft:
            self.published(self.index.swap.publish(draft).generation)

    def published(self, generation: int) -> None:
        self.history[generation] = dict(self.model)

    @rule(changes=CHANGES)
    def build(self, changes: Changes) -> None:
        self.publish([self.change(*change) for change in changes])

    @rule(full=st.booleans())
    def merge(self, full: bool) -> None:
        plan = self.index.writer.plan_rebuild() if full else self.index.writer.plan_merge()
        if plan and (manifest := self.index.writer.commit(plan, self.index.swap.publish)):
            self.published(manifest.generation)

    @rule(before=CHANGES, more=CHANGES, meanwhile=CHANGES, back=st.sampled_from([False, False, True]))
    def merge_that_is_overtaken(self, before: Changes, more: Changes, meanwhile: Changes, back: bool) -> None:
        self.build(before)
        self.build(more)
        plan = self.index.writer.plan_rebuild()
        if not plan:
            return
        merging = self.index.writer.merge(plan)
        self.build(meanwhile)
        if back:
            self.roll_back_to(min(self.history))
        if rebased := self.index.writer.rebase(merging):
            self.published(self.index.swap.publish(rebased).generation)

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        self.roll_back_to(data.draw(st.sampled_from(sorted(self.history))))

    def roll_back_to(self, generation: int) -> None:
        self.model = dict(self.history[generation])
        manifest = rollback(self.index.home, generation)
        assert manifest.held
        self.published(manifest.generation)
        resumed = resume(self.index.home)
        assert resumed
        self.published(resumed.generation)

    @rule(keep=st.integers(1, 4))
    def collect(self, keep: int) -> None:
        gc(self.index.home, keep, 0.0, 2.0**40)
        kept = {manifest.generation for manifest in self.index.home.generations()}
        self.history = {generation: model for generation, model in self.history.items() if generation in kept}

    @rule(prefix=st.sampled_from(["", "a/", "b/", "a/3", "c"]), word=WORDS, k=st.integers(1, 40))
    def ask(self, prefix: str, word: str, k: int) -> None:
        if self.opened:
            wanted, query = Filter(prefix=prefix), vectors_of(word)[0]
            [hits] = self.opened.search(query, k, wanted)
            assert_answers(hits, brute_force(self.live, query, k, wanted), self.live)

    @invariant()
    def the_index_is_the_dictionary(self) -> None:
        if not self.model and self.index.home.current() is None:
            return
        self.opened = Snapshot.open(self.index.home, self.index.current(), self.opened)
        documents = list(self.opened.documents())
        assert [(d.uri, d.stamp, d.content_hash) for d in documents] == [
            (uri, stamp, f"hash of {word}") for uri, (stamp, word) in sorted(self.model.items())
        ]
        assert self.opened.manifest.live_documents == len(documents)
        assert self.opened.manifest.live_rows == sum(d.rows for d in documents)
        assert self.opened.find(self.live) == {d.uri: d for d in documents}

    def incrementally_built_answers_as_a_full_rebuild_does(self) -> None:
        if not self.model or not self.opened:
            return
        rebuilt = Index(self.root / "rebuilt", stamps=itertools.count(1))
        rebuilt.publish(*(Add(document(uri, word, stamp)) for uri, (stamp, word) in self.model.items()))
        queries = [vectors_of(word)[0] for word in ("apple", "fig")]
        for one, other in zip(self.opened.search(queries, 5), rebuilt.snapshot().search(queries, 5), strict=True):
            assert [hit.score for hit in one] == [hit.score for hit in other]
            assert {hit.uri for hit in one if hit.score > one[-1].score} == {hit.uri for hit in other if hit.score > other[-1].score}


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(
    max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
