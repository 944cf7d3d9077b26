from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from index_support import DIMENSION, Index, assert_answers, brute_force, vectors_of

from pipeline.base.errors import ConfigurationError, Unavailable
from pipeline.base.model import Passage
from pipeline.blobs import Blob
from pipeline.blobs.folder import FolderStore
from pipeline.embedder import open_embedder
from pipeline.index.documents import DocumentFacts, IndexedDocument
from pipeline.index.draft import Add
from pipeline.index.manifest import SegmentRef
from pipeline.index.reader import Reader
from pipeline.index.recipe import Recipe
from pipeline.index.upkeep import rollback


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


@pytest.fixture
def reader(index: Index) -> Iterator[Reader]:
    """A reader that follows only when it is told to."""
    with Reader.open(index.store, refresh_every=0) as reader:
        yield reader


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def texts_as_documents(*texts: str) -> list[Add]:
    vectors = open_embedder(f"hash:{DIMENSION}").embed(texts)
    return [
        Add(
            IndexedDocument.of(
                DocumentFacts(f"file:///{n}.txt", "v", f"h{n}", 1, 1, "text/plain", 100.0 + n),
                (Passage(text, 0, len(text)),),
                vectors[n : n + 1],
            )
        )
        for n, text in enumerate(texts)
    ]


def test_a_text_is_embedded_with_the_model_of_the_recipe(index: Index, reader: Reader) -> None:
    index.publish(*texts_as_documents("green apples", "blue whales", "slow trains"))
    reader.refresh()
    hits = reader.search("blue whales", 2)
    assert (hits[0].uri, hits[0].text, hits[0].generation) == ("file:///1.txt", "blue whales", 1)
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert [answer[0].text for answer in reader.search_many(["slow trains", "green apples"], 1)] == ["slow trains", "green apples"]
    assert reader.search_many([]) == []


def test_an_index_without_a_model_asks_for_an_embedder(index: Index) -> None:
    draft = index.new_writer(Recipe.of({})).draft(texts_as_documents("green apples"))
    assert draft
    index.swap.publish(draft)
    with Reader.open(index.store, refresh_every=0) as reader, pytest.raises(ConfigurationError, match="which model"):
        reader.search("apples")
    with Reader.open(index.store, refresh_every=0, embedder=open_embedder(f"hash:{DIMENSION}")) as reader:
        assert reader.search("apples")


def test_queries_follow_the_model_of_a_new_recipe(index: Index, reader: Reader) -> None:
    # Given a reader that has answered texts with the model of the first recipe
    index.publish(*texts_as_documents("green apples"))
    reader.refresh()
    assert reader.search("green apples")[0].score == pytest.approx(1.0, abs=1e-3)
    # When an index of another model takes its place
    vectors = open_embedder("hash:48").embed(["blue whales"])
    facts = DocumentFacts("w", "v", "h", 1, 1, "text/plain", 1.0)
    other = Recipe.of({"model": "hash:48", "revision": "1"})
    draft = index.new_writer(other).draft([Add(IndexedDocument.of(facts, (Passage("blue whales", 0, 11),), vectors))])
    assert draft
    index.swap.publish(draft)
    reader.refresh()
    # Then texts are embedded with that one
    assert [(hit.uri, pytest.approx(hit.score, abs=1e-3)) for hit in reader.search("blue whales")] == [("w", 1.0)]


def test_a_model_of_another_revision_is_refused(index: Index) -> None:
    draft = index.new_writer(Recipe.of({"model": "hash:16", "revision": "older"})).draft(texts_as_documents("green apples"))
    assert draft
    index.swap.publish(draft)
    with Reader.open(index.store, refresh_every=0) as reader, pytest.raises(ConfigurationError, match="revision older"):
        reader.search("apples")


def test_an_index_that_does_not_exist_yet_answers_nothing_and_is_picked_up(tmp_path: Path) -> None:
    index = Index(tmp_path)
    with Reader.open(f"file:{tmp_path / 'home'}", refresh_every=0.01) as reader:
        assert (reader.search("anything"), reader.generation) == ([], 0)
        index.publish(index.add("a", "apple"))
        eventually(lambda: reader.generation == 1)
        assert reader.search(vectors_of("apple")[0])[0].uri == "a"


def test_answers_are_those_of_exact_search_across_segments(index: Index, reader: Reader) -> None:
    for batch in range(5):
        index.publish(*(index.add(f"{batch}/{n}", f"word {batch} {n}") for n in range(50)))
    index.publish(*(index.remove(f"{batch}/7") for batch in range(5)))
    reader.refresh()
    live = index.words()
    queries = vectors_of("query", 20)
    for query, hits in zip(queries, reader.search_many(queries, 10), strict=True):
        assert_answers(hits, brute_force(live, query, 10), live)
        assert hits == reader.search(query, 10)


def test_more_answers_than_passages_are_all_of_them(index: Index, reader: Reader) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    index.publish(index.add("b", "fig"))
    reader.refresh()
    assert len(reader.search(vectors_of("apple")[0], 1000)) == len(vectors_of("apple")) + len(vectors_of("fig"))
    assert reader.search(vectors_of("apple")[0], 0) == []


def test_filters(index: Index, reader: Reader) -> None:
    index.publish(
        index.add("docs/a.txt", "apple"),
        index.add("docs/b.pdf", "pear", media_type="application/pdf"),
        index.add("docs-old/c.txt", "plum"),
    )
    index.publish(index.add("docs/d.txt", "fig"))
    reader.refresh()

    def found(**filters) -> set[str]:
        return {hit.uri for hit in reader.search(vectors_of("apple")[0], 100, **filters)}

    assert found(prefix="docs/") == {"docs/a.txt", "docs/b.pdf", "docs/d.txt"}
    assert found(prefix="docs") == {"docs/a.txt", "docs/b.pdf", "docs-old/c.txt", "docs/d.txt"}
    assert found(prefix="nowhere") == set()
    assert found(media_type="application/pdf") == {"docs/b.pdf"}
    assert found(changed_since=3) == {"docs-old/c.txt", "docs/d.txt"}
    assert found(prefix="docs/", media_type="text/plain", changed_since=2) == {"docs/d.txt"}


def test_a_query_of_another_length_is_refused(index: Index, reader: Reader) -> None:
    index.publish(index.add("a", "apple"))
    reader.refresh()
    with pytest.raises(ConfigurationError, match="dimensions"):
        reader.search(np.zeros(8, np.float32))
    with pytest.raises(ValueError, match="search_many"):
        reader.search(vectors_of("x", 2))


def test_refresh_tells_whether_there_was_something_new(index: Index, reader: Reader) -> None:
    assert reader.refresh() is False
    index.publish(index.add("a", "apple"))
    assert reader.refresh() is True
    assert reader.refresh() is False
    index.publish(index.remove("a"))
    assert reader.refresh() is True
    assert reader.search(vectors_of("apple")[0]) == []


def test_a_rollback_is_followed(index: Index, reader: Reader) -> None:
    index.publish(index.add("a", "apple"))
    index.publish(index.add("a", "pear"))
    rollback(index.home, 1)
    reader.refresh()
    assert reader.generation == 3
    assert reader.search(vectors_of("apple")[0], 1)[0].text == "apple 0"


def test_a_corrupt_generation_is_refused_and_said_once(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    # Given a reader that follows
    index.publish(index.add("a", "apple"))
    with Reader.open(index.store, refresh_every=0.005) as reader, caplog.at_level(logging.ERROR, "pipeline.index.reader"):
        # When a generation is published and damaged before anybody opened it
        draft = index.draft(index.add("b", "pear"))
        for name, content in draft.files:
            index.store.put(name, content)
        path = index.store.root / next(name for name, _ in draft.files if name.endswith("faiss"))
        path.write_bytes(path.read_bytes()[:-1])
        index.home.commit(draft)
        # Then the old one goes on answering, and the log says so once
        eventually(lambda: bool(caplog.records))
        time.sleep(0.1)
        assert reader.generation == 1
        assert reader.search(vectors_of("apple")[0], 1)[0].uri == "a"
        assert [record.action for record in caplog.records] == ["refused"]
        # And a later good generation is picked up
        index.home.commit(rollback_draft(index))
        eventually(lambda: reader.generation == 3)


def test_an_opening_compares_what_it_may_with_the_digests_and_the_smallest_files_first(index: Index) -> None:
    # Given a large segment and a small one; of each a byte changed that no opening stumbles over
    large = index.publish(*(index.add(f"{n:04d}", f"word {n}") for n in range(500))).segments[0]
    small = index.publish(index.add("a", "apple")).segments[1]
    budget = sum(file.size for file in small.files.values())
    assert budget < large.passages.size

    def opened(verify_bytes: int) -> int:
        with Reader.open(index.store, refresh_every=0, verify_bytes=verify_bytes) as reader:
            return reader.generation

    def damage(segment: SegmentRef, word: bytes) -> None:
        path = index.store.root / next(name for name in segment.files if name.endswith("sqlite"))
        path.write_bytes(path.read_bytes().replace(word, word.upper()))

    assert opened(budget) == 2
    damage(large, b"word 250 0")
    # Then what the reader may compare decides whether it notices
    assert opened(budget) == 2
    assert opened(10 * large.passages.size) == 0
    # And the small segment is compared whatever lies beside it
    damage(small, b"apple 0")
    assert opened(budget) == 0
    assert opened(0) == 2


def rollback_draft(index: Index):
    from pipeline.index.draft import Draft

    found = index.home.current()
    assert found
    first = index.home.load(1)
    return Draft(type(first)(**{**dict(first), "generation": 3, "parent": found[0].name}), (), found[1])


class Flaky(FolderStore):
    """A folder that can be out of reach."""

    away = False

    def get(self, name: str) -> Blob | None:
        if self.away:
            raise Unavailable("out of reach")
        return super().get(name)


def test_a_home_out_of_reach_leaves_the_snapshot_in_place(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    store = Flaky(index.store.root)
    with Reader.open(store, refresh_every=0) as reader:
        index.publish(index.add("b", "pear"))
        store.away = True
        assert reader.refresh() is False
        assert reader.search(vectors_of("apple")[0], 1)[0].uri == "a"
        store.away = False
        assert reader.refresh() is True


def test_no_query_fails_or_sees_half_a_generation_while_generations_change(index: Index) -> None:
    # Given an index in which every generation replaces both documents by the same word
    def publish(word: str) -> None:
        index.publish(index.add("a", word), index.add("b", word))

    publish("word 0")
    problems: list[object] = []
    done = threading.Event()

    def ask(reader: Reader) -> None:
        while not done.is_set():
            try:
                hits = reader.search(vectors_of("query")[0], 100)
                found = {(hit.uri, hit.text.rpartition(" ")[0]) for hit in hits}
                if len(found) != 2 or len({word for _, word in found}) != 1 or len({hit.generation for hit in hits}) != 1:
                    problems.append(found)
            except Exception as error:
                problems.append(error)

    # When several threads ask all the time while generations come and merges happen
    with Reader.open(index.store, refresh_every=0.001) as reader:
        threads = [threading.Thread(target=ask, args=(reader,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(1, 40):
            publish(f"word {number}")
            if plan := index.writer.plan_rebuild():
                index.writer.commit(plan, index.swap.publish)
        eventually(lambda: reader.generation == index.current().generation)
        done.set()
        for thread in threads:
            thread.join()
    # Then every answer was that of one whole generation
    assert problems == []


def test_a_closed_reader_answers_nothing(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    reader = Reader.open(index.store)
    assert reader.search(vectors_of("apple")[0])
    reader.close()
    assert reader.search(vectors_of("apple")[0]) == []
