"""What is written into the ledger comes back as it was, in whole and in part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.model import Entry, Known, State

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"etag"', "back\\slash", 'a","b', "\\", "ä\n"])
entries = st.builds(
    Entry,
    words,
    st.sampled_from(State),
    st.integers(0, 2**53),
    words,
    words,
    words,
    modified_at=st.floats(allow_nan=False, allow_infinity=False),
)


@given(entries)
def test_an_entry_comes_back(entry: Entry) -> None:
    assert Entry.from_json(entry.uri, entry.to_json()) == entry


@given(entries)
def test_what_a_listing_is_compared_with_is_the_entry_s_version(entry: Entry) -> None:
    known = Known.from_json(entry.uri, entry.to_json())
    assert known == (None if entry.state is State.REMOVED else Known(entry.uri, entry.version))
