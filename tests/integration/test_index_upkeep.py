from __future__ import annotations

import time
from pathlib import Path

import pytest
from index_support import Index

from pipeline.base.errors import ConfigurationError, Conflict, CorruptIndex
from pipeline.index.home import CURRENT, Home
from pipeline.index.recipe import Recipe
from pipeline.index.upkeep import gc, pin, pinned, promote, resume, rollback, unpin, verify_digests

LATER = 2.0**40
"""A time at which everything is old."""


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Three generations: apple, pear and plum under one uri, and a document beside it."""
    index = Index(tmp_path)
    index.publish(index.add("a", "apple"), index.add("b", "fig"))
    index.publish(index.add("a", "pear"))
    index.publish(index.add("a", "plum"))
    return index


def test_generations_are_listed_newest_first(index: Index) -> None:
    assert [manifest.generation for manifest in index.home.generations()] == [3, 2, 1]
    assert [manifest.generation for manifest in index.home.generations(2)] == [3, 2]
    assert index.home.load(2).generation == 2


@pytest.mark.parametrize("generation", [4, 99])
def test_a_generation_that_was_never_published_is_not_loaded(index: Index, generation: int) -> None:
    with pytest.raises(CorruptIndex, match="not kept"):
        index.home.load(generation)


def test_the_manifest_of_a_lost_race_is_no_generation(index: Index) -> None:
    mine, theirs = index.draft(index.add("a", "kiwi")), index.new_writer().draft([index.add("a", "lime")])
    assert theirs
    index.swap.publish(theirs)
    with pytest.raises(Conflict):
        index.swap.publish(mine)
    assert len(list(index.store.list("manifests/00000004-"))) == 2
    assert index.home.load(4) == theirs.manifest


def test_a_rollback_is_a_new_generation_that_is_held_until_resumed(index: Index) -> None:
    manifest = rollback(index.home, 1)
    assert (manifest.generation, manifest.held, manifest.note) == (4, True, "rollback to 1")
    assert index.words() == {"a": "apple", "b": "fig"}
    with pytest.raises(Conflict, match="held"):
        index.writer.draft([index.add("c", "kiwi")])
    resumed = resume(index.home)
    assert resumed
    assert not resumed.held
    assert resume(index.home) is None
    index.publish(index.add("c", "kiwi"))
    assert index.words() == {"a": "apple", "b": "fig", "c": "kiwi"}


def test_a_merge_that_a_rollback_overtook_is_given_up(index: Index) -> None:
    # Given a merge of segments in which a document was dead
    plan = index.writer.plan_rebuild()
    assert plan
    draft = index.writer.merge(plan)
    # When a rollback brings that document back to life
    rollback(index.home, 1)
    resume(index.home)
    # Then the merged segment, which lacks it, is not published
    assert index.writer.rebase(draft) is None
    assert index.words() == {"a": "apple", "b": "fig"}


def test_cleanup_keeps_the_last_generations_and_what_they_need(index: Index) -> None:
    deleted = gc(index.home, 2, 0.0, LATER)
    assert [manifest.generation for manifest in index.home.generations()] == [3, 2]
    assert len([name for name in deleted if name.startswith("manifests/")]) == 1
    rollback(index.home, 2)
    assert index.words() == {"a": "pear", "b": "fig"}


def test_cleanup_removes_what_only_collected_generations_needed(index: Index) -> None:
    gc(index.home, 1, 0.0, LATER)
    left = {info.name for prefix in ("segments/", "deletes/", "manifests/") for info in index.store.list(prefix)}
    assert left == {index.current().name, *index.current().names}
    assert gc(index.home, 1, 0.0, LATER) == []
    assert verify_digests(index.home) == []


def test_cleanup_never_touches_what_is_young(index: Index) -> None:
    draft = index.draft(index.add("a", "kiwi"))
    for name, content in draft.files:
        index.store.put(name, content)
    assert gc(index.home, 1, 3600.0, time.time()) == []
    index.swap.publish(draft)
    assert index.words() == {"a": "kiwi", "b": "fig"}


def test_cleanup_keeps_pinned_generations(index: Index) -> None:
    pin(index.home, 1)
    gc(index.home, 1, 0.0, LATER)
    assert [manifest.generation for manifest in pinned(index.home)] == [1]
    unpin(index.home, 1)
    assert gc(index.home, 1, 0.0, LATER)
    assert pinned(index.home) == []


def test_cleanup_keeps_shards_in_use(index: Index) -> None:
    index.store.put("shards/r/1", b"used")
    index.store.put("shards/r/2", b"forgotten")
    assert [name for name in gc(index.home, 9, 0.0, LATER, in_use={"shards/r/1"}) if name.startswith("shards/")] == ["shards/r/2"]


def test_cleanup_of_a_damaged_home_deletes_nothing(index: Index) -> None:
    index.store.put(CURRENT, b"{}")
    with pytest.raises(CorruptIndex):
        gc(index.home, 1, 0.0, LATER)
    assert len(list(index.store.list("manifests/"))) == 3


def test_another_index_is_built_beside_and_promoted_when_complete(index: Index) -> None:
    # Given an index of another recipe, built in the same place under a pointer of its own
    recipe = Recipe.of({"model": "another"})
    other = index.home.beside(recipe.digest)
    writer = index.new_writer(recipe, home=other)
    for uri, word in (("x", "kiwi"), ("y", "lime")):
        draft = writer.draft([index.add(uri, word)])
        assert draft
        type(index.swap)(other).publish(draft)
    # Then the served index is untouched, and cleanup leaves both alone
    gc(index.home, 1, 0.0, LATER)
    assert index.words() == {"a": "plum", "b": "fig"}
    # When it is promoted
    manifest = promote(index.home, other)
    # Then it is served, as the next generation of the same history
    assert manifest.generation > 3
    assert manifest.parent
    assert manifest.recipe == recipe
    assert index.words() == {"x": "kiwi", "y": "lime"}
    assert [one.generation for one in index.home.generations()] == [manifest.generation, 3]
    assert other.current() is None
    with pytest.raises(ConfigurationError):
        promote(index.home, other)


def test_a_lost_pointer_does_not_restart_the_count(index: Index) -> None:
    index.store.delete(CURRENT)
    assert index.publish(index.add("a", "kiwi")).generation == 4


@pytest.mark.parametrize("content", [b"", b"{}", b'{"generation":1}', b"\xff", b"[" * 5000])
def test_a_broken_pointer_is_a_corrupt_index_with_a_hint(index: Index, content: bytes) -> None:
    index.store.put(CURRENT, content)
    with pytest.raises(CorruptIndex) as caught:
        index.home.current()
    assert "dropdex" in caught.value.hint


def test_verifying_names_every_damaged_file(index: Index) -> None:
    assert verify_digests(index.home) == []
    names = index.current().names
    for name in names:
        path = Path(index.store.root) / name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    problems = verify_digests(Home(index.store))
    assert len(problems) == len(names)
    assert all(any(name in problem for problem in problems) for name in names)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes() + b" ")])
def test_a_damaged_manifest_is_a_corrupt_index(index: Index, damage) -> None:
    damage(Path(index.store.root) / index.current().name)
    with pytest.raises(CorruptIndex):
        Home(index.store).current()  # whoever has read it before goes on with what it read
    assert len(verify_digests(index.home)) == 1
