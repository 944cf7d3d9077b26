"""The merge-join says what comparing two dictionaries says, and holds removals back until they can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import DropdexError, TooManyRemovals, Unavailable
from pipeline.base.model import DocumentEvent, Known, Listed, Origin
from pipeline.relay import reconcile as module
from pipeline.relay.reconcile import differences, reconcile

uris = st.text(st.characters(exclude_categories=["Cs"]), max_size=3).map("file:///in/".__add__)
versions = st.sampled_from(["1", "2"])


def listing(*lines: tuple[str, str]) -> list[Listed]:
    return [Listed(uri, version, len(uri)) for uri, version in sorted(lines, key=lambda line: line[0].encode())]


def ledger(*entries: tuple[str, str]) -> list[Known]:
    return [Known(*entry) for entry in sorted(entries, key=lambda entry: entry[0].encode())]


def present(count: int) -> list[Known]:
    return ledger(*((f"{number:06}", "1") for number in range(count)))


@given(st.dictionaries(uris, versions), st.dictionaries(uris, versions))
def test_the_differences_are_those_of_two_dictionaries(listed: dict[str, str], known: dict[str, str]) -> None:
    found = list(differences(listing(*listed.items()), ledger(*known.items())))

    assert [each.event.uri for each in found] == sorted((each.event.uri for each in found), key=str.encode)
    assert {each.event.uri for each in found if each.removed} == known.keys() - listed.keys()
    assert {each.event.uri for each in found if not each.removed} == {uri for uri in listed if known.get(uri) != listed[uri]}


def test_events_are_backfill_and_carry_the_listed_size() -> None:
    events = list(reconcile([Listed("a", "1", 42)], ledger(("b", "1")), guard=0.3))

    assert events == [DocumentEvent("a", Origin.BACKFILL, 42), DocumentEvent("b", Origin.BACKFILL)]


def test_a_dead_letter_is_silent_until_its_content_changes() -> None:
    known = ledger(("poison", "1"))

    assert list(reconcile(listing(("poison", "1")), known, guard=0.3)) == []
    assert [event.uri for event in reconcile(listing(("poison", "2")), known, guard=0.3)] == ["poison"]
    assert [event.uri for event in reconcile([], known, guard=0.3)] == ["poison"]


@pytest.mark.parametrize("wrong", [["b", "a"], ["a", "a"], ["ä", "z"]])
def test_a_side_out_of_order_is_an_error(wrong: list[str]) -> None:
    lines = [Listed(uri, "1", 0) for uri in wrong]
    entries = [Known(uri, "1") for uri in wrong]

    with pytest.raises(DropdexError, match="listing is out of order"):
        list(differences(lines, []))
    with pytest.raises(DropdexError, match="ledger is out of order"):
        list(differences([], entries))


def test_removals_up_to_the_guard_follow_the_changes() -> None:
    known = present(100)
    lines = [Listed("000000", "2", 1), *(Listed(entry.uri, "1", 1) for entry in known[31:])]

    events = [event.uri for event in reconcile(lines, known, guard=0.3)]

    assert events == ["000000", *(entry.uri for entry in known[1:31])]


def test_removals_beyond_the_guard_are_refused_after_the_changes() -> None:
    known = present(100)
    lines = [*(Listed(entry.uri, "1", 1) for entry in known[31:]), Listed("new", "1", 1)]
    events = reconcile(lines, known, guard=0.3)

    assert next(events).uri == "new"
    with pytest.raises(TooManyRemovals) as refusal:
        next(events)

    assert (refusal.value.removals, refusal.value.known) == (31, 100)
    assert "--allow-removals" in refusal.value.hint


def test_removals_beyond_the_guard_are_made_when_allowed() -> None:
    assert len(list(reconcile([], present(100), guard=0.3, allow_removals=True))) == 100


def test_a_guard_of_one_refuses_nothing() -> None:
    assert len(list(reconcile([], present(100), guard=1.0))) == 100


def test_in_a_small_corpus_a_share_says_nothing() -> None:
    assert [event.uri for event in reconcile(listing(("000000", "1")), present(2), guard=0.3)] == ["000001"]
    assert len(list(reconcile([], present(10), guard=0.3))) == 10
    with pytest.raises(TooManyRemovals):
        list(reconcile([], present(11), guard=0.3))


def test_a_listing_that_breaks_off_removes_nothing() -> None:
    def breaking_off() -> Iterator[Listed]:
        yield Listed("000005", "1", 1)
        raise Unavailable("the bucket does not answer")

    events: list[DocumentEvent] = []
    with pytest.raises(Unavailable):
        events.extend(reconcile(breaking_off(), present(6), guard=0.3))

    assert events == []


def test_removals_that_do_not_fit_into_memory_arrive_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", 64)
    names = ["a\nb", "ä", "日本", *(f"{number:05}" for number in range(500))]
    known: Iterable[Known] = ledger(*((name, "1") for name in names))

    events = [event.uri for event in reconcile([], known, guard=0.3, allow_removals=True)]

    assert events == sorted(names, key=str.encode)
