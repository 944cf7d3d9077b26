from __future__ import annotations

import os
from pathlib import Path

import pytest
from index_support import RECIPE, Index, facts_of, vectors_of, words

from pipeline.base.errors import ConfigurationError, Conflict, CorruptIndex
from pipeline.base.model import Passage
from pipeline.index.documents import IndexedDocument
from pipeline.index.draft import Add, Copy, Remove
from pipeline.index.recipe import Recipe
from pipeline.index.segment import write
from pipeline.index.snapshot import Snapshot


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


def test_the_first_generation_holds_what_was_added(index: Index) -> None:
    manifest = index.publish(index.add("b", "pear"), index.add("a", "apple"))
    assert (manifest.generation, manifest.parent, manifest.note) == (1, None, "build")
    assert index.words() == {"a": "apple", "b": "pear"}
    assert [document.uri for document in index.snapshot().documents()] == ["a", "b"]


def test_a_replaced_document_is_dead_in_its_old_segment(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    manifest = index.publish(index.add("a", "plum"))
    assert index.words() == {"a": "plum", "b": "pear"}
    assert [(ref.documents, ref.live_documents) for ref in manifest.segments] == [(2, 1), (1, 1)]


def test_a_segment_without_live_rows_is_dropped(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    assert len(index.publish(index.add("a", "plum")).segments) == 1
    assert index.publish(index.remove("a")).segments == ()
    assert index.words() == {}


def test_the_newest_stamp_wins_whatever_the_order(index: Index) -> None:
    older, newer = index.add("a", "apple"), index.add("a", "plum")
    index.publish(newer, older)
    assert index.words() == {"a": "plum"}
    assert index.writer.draft([older, Remove("a", older.stamp)]) is None


def test_a_change_that_is_published_already_changes_nothing(index: Index) -> None:
    change = index.add("a", "apple")
    index.publish(change)
    assert index.writer.draft([change]) is None


def test_nothing_to_change_is_no_draft(index: Index) -> None:
    assert index.writer.draft([]) is None
    assert index.writer.draft([index.remove("a")]) is None
    index.publish(index.add("a", "apple"))
    assert index.writer.draft([index.remove("b")]) is None


def test_a_removal_without_stamp_removes_whatever_is_there(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    index.publish(Remove("a"))
    assert index.words() == {}


def test_a_document_without_passages_is_a_removal(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    index.publish(Add(IndexedDocument.of(facts_of("a", "", next(index.stamps)), (), vectors_of("x")[:0])))
    assert index.words() == {"b": "pear"}


def test_a_copy_takes_rows_from_a_segment_living_or_dead(index: Index) -> None:
    # Given a document that is moved: its new place is copied from the old, which goes in the same draft
    index.publish(index.add("old", "apple"), index.add("other", "pear"))
    index.publish(index.copy("new", "apple"), index.remove("old"))
    # When it is moved on, from a document that is dead only when seen from its first segment
    index.publish(index.copy("newest", "apple"), index.remove("new"))
    # Then nothing was lost, down to the last bit of the vectors
    assert index.words() == {"newest": "apple", "other": "pear"}
    [hit] = index.snapshot().search(vectors_of("apple")[0], 1)[0]
    assert (hit.uri, hit.text) == ("newest", "apple 0")


def test_a_copy_takes_rows_from_an_addition_of_the_same_draft(index: Index) -> None:
    draft = index.draft(index.add("a", "apple"), index.copy("b", "apple"))
    assert draft.missing == ()
    index.swap.publish(draft)
    assert index.words() == {"a": "apple", "b": "apple"}


def test_a_copy_of_nothing_is_missing_and_leaves_the_old_document_searchable(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    draft = index.draft(index.copy("a", "unknown"), index.copy("b", "unknown"), index.add("c", "pear"))
    assert draft.missing == ("a", "b")
    index.swap.publish(draft)
    assert index.words() == {"a": "apple", "c": "pear"}


def test_only_missing_copies_are_still_reported(index: Index) -> None:
    draft = index.draft(index.copy("a", "unknown"))
    assert draft.missing == ("a",)
    assert draft.files == ()


def test_many_changes_at_once(index: Index) -> None:
    index.publish(*(index.add(f"{n:05d}", f"word {n}") for n in range(3000)))
    index.publish(
        *(index.add(f"{n:05d}", f"new {n}") for n in range(0, 3000, 3)),
        *(index.remove(f"{n:05d}") for n in range(1, 3000, 3)),
        *(index.copy(f"copy {n:05d}", f"word {n}") for n in range(1, 3000, 3)),
    )
    expected = {f"{n:05d}": f"word {n}" for n in range(2, 3000, 3)}
    expected |= {f"{n:05d}": f"new {n}" for n in range(0, 3000, 3)} | {f"copy {n:05d}": f"word {n}" for n in range(1, 3000, 3)}
    assert index.words() == expected


def test_one_document_more_costs_its_own_size(index: Index) -> None:
    # Given an index of a thousand documents
    index.publish(*(index.add(f"{n:05d}", f"word {n}") for n in range(1000)))
    # When one of them is replaced
    draft = index.draft(index.add("00500", "plum"))
    # Then a segment of a few pages and a bitmap are written, and nothing else
    sizes = [content.stat().st_size if isinstance(content, Path) else len(content) for _, content in draft.files]
    assert len(sizes) == 3
    assert sum(sizes) < 40_000


def test_drafts_that_race_conflict_and_the_loser_drafts_again(index: Index) -> None:
    other = index.new_writer()
    mine, theirs = index.draft(index.add("a", "apple")), other.draft([index.add("b", "pear")])
    assert theirs
    index.swap.publish(theirs)
    with pytest.raises(Conflict):
        index.swap.publish(mine)
    index.publish(index.add("a", "apple"))
    assert index.words() == {"a": "apple", "b": "pear"}


def test_two_drafts_of_one_generation_never_share_a_bitmap(index: Index) -> None:
    # Given two drafts upon the same generation that bury different rows of the same segment
    index.publish(index.add("a", "apple"), index.add("b", "pear"), index.add("c", "plum"))
    mine, theirs = index.draft(index.remove("a")), index.new_writer().draft([index.remove("b")])
    assert theirs
    # When the loser has written its files too
    index.swap.publish(theirs)
    with pytest.raises(Conflict):
        index.swap.publish(mine)
    # Then the winner's generation is what the winner wrote
    assert index.words() == {"a": "apple", "c": "plum"}


def test_publishing_the_same_draft_twice_changes_nothing(index: Index) -> None:
    draft = index.draft(index.add("a", "apple"))
    assert index.swap.publish(draft) == index.swap.publish(draft)
    assert index.current().generation == 1


def test_another_recipe_starts_afresh_or_is_refused(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    other = Recipe.of({"model": "another"})
    with pytest.raises(ConfigurationError, match="recipe"):
        index.new_writer(other, replace_recipe=False).draft([index.add("b", "pear")])
    draft = index.new_writer(other).draft([index.add("b", "pear"), index.copy("c", "apple")])
    assert draft
    assert draft.missing == ("c",)
    index.swap.publish(draft)
    assert index.words() == {"b": "pear"}
    assert index.current().recipe == other


def test_vectors_of_another_length_are_refused(index: Index) -> None:
    index.publish(index.add("a", "apple"))
    odd = IndexedDocument.of(facts_of("b", "pear", 99), (Passage("pear", 0, 4),), vectors_of("pear", 1)[:, :8])
    with pytest.raises(ConfigurationError, match="dimensions"):
        index.writer.draft([Add(odd)])


def test_facts_are_recorded(index: Index) -> None:
    draft = index.writer.draft([index.add("a", "apple")], facts={"freshness_p50": 0.2}, note="build")
    assert draft
    assert index.swap.publish(draft).facts == {"freshness_p50": 0.2}


def test_a_writer_of_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    abandoned = tmp_path / "scratch" / "draft-old"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    Index(tmp_path)
    assert not abandoned.exists()


def test_a_segment_insists_on_order_and_passages(tmp_path: Path) -> None:
    index = Index(tmp_path)
    a, b = index.add("a", "apple").document, index.add("b", "pear").document
    for number, documents in enumerate([[b, a], [a, a], [IndexedDocument.of(a, (), a.vectors)]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ValueError, match=r"sorted by uri|needs passages"):
            write(folder, documents, exact_rows=10, target_recall=0.9)


# Merges ---------------------------------------------------------------------------------------------------------------


def two_segments(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("c", "plum"), index.add("e", "fig"))
    index.publish(index.add("b", "pear"), index.add("d", "lime"))


def test_a_merge_keeps_the_living_and_drops_the_dead(index: Index) -> None:
    two_segments(index)
    index.publish(index.remove("c"), index.add("a", "quince"))
    before = index.words()
    plan = index.writer.plan_rebuild()
    assert plan
    manifest = index.writer.commit(plan, index.swap.publish)
    assert manifest
    assert [(ref.rows == ref.live_rows, ref.documents) for ref in manifest.segments] == [(True, 4)]
    assert index.words() == before
    assert index.writer.plan_rebuild() is None


def test_small_segments_are_merged_when_there_are_enough(tmp_path: Path) -> None:
    index = Index(tmp_path, {"merge_factor": 3})
    index.publish(index.add("a", "apple"), index.add("a2", "fig"))
    index.publish(index.add("b", "pear"))
    assert index.writer.plan_merge() is None
    index.publish(index.add("c", "plum"))
    for word in ("lime", "melon", "kiwi", "date"):
        index.publish(index.add(word, word))
        while plan := index.writer.plan_merge():
            assert index.writer.commit(plan, index.swap.publish)
    assert len(index.current().segments) < 5
    assert len(index.words()) == 8


def test_deletes_and_additions_that_arrive_during_a_merge_are_carried_over(index: Index) -> None:
    # Given a merge that is written
    two_segments(index)
    plan = index.writer.plan_rebuild()
    assert plan
    draft = index.writer.merge(plan)
    # When documents are replaced, removed and added before it is published
    index.publish(index.remove("c"), index.add("d", "quince"), index.add("f", "kiwi"))
    with pytest.raises(Conflict):
        index.swap.publish(draft)
    rebased = index.writer.rebase(draft)
    assert rebased
    manifest = index.swap.publish(rebased)
    # Then nothing of that is undone
    assert index.words() == {"a": "apple", "b": "pear", "d": "quince", "e": "fig", "f": "kiwi"}
    assert [ref.live_documents for ref in manifest.segments] == [3, 2]


def test_commit_bases_itself_again_when_it_loses_a_race(index: Index) -> None:
    two_segments(index)
    plan, builder, changes = index.writer.plan_rebuild(), index.new_writer(), [index.remove("a"), index.add("b", "kiwi")]
    assert plan

    def publish_after_another(draft):
        if changes:
            other = builder.draft([changes.pop()])
            assert other
            index.swap.publish(other)
        return index.swap.publish(draft)

    assert index.writer.commit(plan, publish_after_another)
    assert index.words() == {"b": "kiwi", "c": "plum", "d": "lime", "e": "fig"}


def test_a_merge_whose_documents_all_died_is_pointless(index: Index) -> None:
    two_segments(index)
    plan = index.writer.plan_rebuild()
    assert plan
    draft = index.writer.merge(plan)
    index.publish(*(index.remove(uri) for uri in "abcde"))
    assert index.writer.rebase(draft) is None


def test_a_merge_that_somebody_else_made_too_is_pointless(index: Index) -> None:
    two_segments(index)
    plan = index.writer.plan_rebuild()
    assert plan
    mine = index.writer.merge(plan)
    assert index.new_writer().commit(plan, index.swap.publish)
    assert index.writer.rebase(mine) is None
    with pytest.raises(Conflict):
        index.writer.merge(plan)


def test_only_merges_can_be_based_again(index: Index) -> None:
    draft = index.draft(index.add("a", "apple"))
    index.publish(index.add("b", "pear"))
    with pytest.raises(Conflict):
        index.writer.rebase(draft)


# What is published is checked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["index.faiss", "passages.sqlite"])
def test_a_damaged_file_is_not_published(index: Index, kind: str) -> None:
    index.publish(index.add("a", "apple"))
    draft = index.draft(index.add("b", "pear"))
    [path] = [content for name, content in draft.files if name.endswith(kind)]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptIndex):
        index.swap.publish(draft)
    assert index.words() == {"a": "apple"}


def test_an_opened_snapshot_survives_the_loss_of_its_files(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    snapshot = index.snapshot()
    for info in list(index.store.list("segments/")):
        index.store.delete(info.name)
    assert words(snapshot) == {"a": "apple", "b": "pear"}
    assert snapshot.search(vectors_of("pear")[0], 1)[0][0].uri == "b"


def test_a_snapshot_shares_what_the_previous_one_has_open(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    first = index.snapshot()
    index.publish(index.remove("a"), index.add("c", "plum"))
    second = Snapshot.open(index.home, index.current(), first)
    assert second.views[0].segment is first.views[0].segment
    assert words(first) == {"a": "apple", "b": "pear"}
    assert words(second) == {"b": "pear", "c": "plum"}


def test_a_document_is_found_by_uri_and_by_content(index: Index) -> None:
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    index.publish(index.remove("a"))
    snapshot = index.snapshot()
    assert snapshot.document("a") is None
    found = snapshot.document("b")
    assert found
    assert (found.version, found.media_type, found.rows) == ("v2", "text/plain", len(vectors_of("pear")))
    assert snapshot.by_content("hash of apple")
    assert snapshot.by_content("hash of plum") is None


def test_the_recipe_is_published_with_the_index(index: Index) -> None:
    assert index.publish(index.add("a", "apple")).recipe == RECIPE


def test_a_copy_of_a_stale_addition_still_finds_its_content(index: Index) -> None:
    stale = index.add("a", "plum")
    index.publish(index.add("a", "apple"))
    index.publish(stale, Copy(facts_of("b", "plum", next(index.stamps))))
    assert index.words() == {"a": "apple", "b": "plum"}
