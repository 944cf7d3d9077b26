from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_support import RECIPE
from pydantic import ValidationError

from pipeline.base.errors import CorruptIndex
from pipeline.index.manifest import DeletesRef, FileRef, Manifest, Pointer, SegmentRef, sha256

FILE = FileRef(size=10, sha256=sha256(b""))
SEGMENT = SegmentRef(
    id="0123456789abcdef",
    rows=10,
    live_rows=8,
    documents=5,
    live_documents=4,
    index_type="exact",
    recall=1.0,
    index=FILE,
    passages=FILE,
    deletes=DeletesRef(name="deletes/00000001/0123456789abcdef-0123456789ab", sha256=sha256(b"d")),
)
MANIFEST = Manifest(
    generation=3,
    parent="manifests/00000002-0123456789ab.json",
    created_at=1.5,
    recipe=RECIPE,
    dimension=16,
    segments=(SEGMENT,),
    note="build",
    facts={"p50": 0.25},
)


def test_bytes_and_back() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST
    assert Manifest.from_bytes(MANIFEST.to_bytes()).digest == MANIFEST.digest
    assert Pointer.from_bytes(Pointer.to(MANIFEST).to_bytes()) == Pointer.to(MANIFEST)


def test_the_name_tells_generation_and_digest() -> None:
    assert MANIFEST.name == f"manifests/00000003-{MANIFEST.digest[:12]}.json"


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_give_a_manifest_or_a_corrupt_index(data: bytes) -> None:
    for model in (Manifest, Pointer):
        with pytest.raises(CorruptIndex):
            model.from_bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


@given(st.data())
def test_a_valid_manifest_with_one_odd_value_is_read_or_refused(data: st.DataObject) -> None:
    good = json.loads(MANIFEST.to_bytes())
    *parents, last = data.draw(st.sampled_from(places(good)[1:]))
    inner = good
    for key in parents:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    try:
        manifest = Manifest.from_bytes(json.dumps(good).encode())
    except CorruptIndex:
        return
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../etc/passwd"},
        {"id": "0123456789abcdef\n"},
        {"live_rows": 11},
        {"live_rows": 0},
        {"live_documents": 6},
        {"deletes": None},
        {"live_rows": 10},
        {"index_type": "pickle"},
        {"recall": 1.5},
        {"rows": 2**64},
    ],
)
def test_a_segment_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SegmentRef(**{**dict(SEGMENT), **change})


def test_a_deeply_nested_manifest_is_corrupt_and_no_crash() -> None:
    with pytest.raises(CorruptIndex):
        Manifest.from_bytes(b"[" * 100_000)


def test_a_segment_is_listed_once() -> None:
    with pytest.raises(ValidationError, match="listed once"):
        Manifest(**{**dict(MANIFEST), "segments": (SEGMENT, SEGMENT)})
