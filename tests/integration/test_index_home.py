"""The step that makes a generation visible believes nothing that it has not read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from index_support import HastyFolder, Index, words

from pipeline.base.errors import CorruptIndex
from pipeline.index.home import MANIFESTS, Home
from pipeline.index.snapshot import Snapshot

Spoil = Callable[[bytes], bytes]


class Spoiling(HastyFolder):
    """A folder in which manifests arrive otherwise than they were written, and nobody says so."""

    spoil: Spoil | None = None

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        if self.spoil and name.startswith(MANIFESTS) and isinstance(content, bytes):
            content = self.spoil(content)
        return super().put(name, content, replacing=replacing, durable=durable)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut-short"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data.replace(b'"note":"build"', b'"note":"guild"'), id="bent"),
    ],
)
@pytest.mark.parametrize("first", [False, True], ids=["", "first-of-all"])
def test_a_manifest_that_arrived_otherwise_is_never_served(tmp_path: Path, spoil: Spoil, first: bool) -> None:
    # Given an index, and a store that will spoil the next manifest
    index = Index(tmp_path)
    store = Spoiling(index.store.root)
    if not first:
        index.publish(index.add("a", "apple"))
    draft = index.draft(index.add("b", "pear"))
    for name, content in draft.files:
        store.put(name, content)
    before = Home(store).pointer()
    # When it is committed
    store.spoil = spoil
    with pytest.raises(CorruptIndex):
        Home(store).commit(draft)
    # Then the pointer has not moved
    assert Home(store).pointer() == before


def test_the_same_draft_is_committed_once_the_store_is_well(tmp_path: Path) -> None:
    index = Index(tmp_path)
    store = Spoiling(index.store.root)
    draft = index.draft(index.add("a", "apple"))
    for name, content in draft.files:
        store.put(name, content)
    store.spoil = lambda data: data[:-1]
    with pytest.raises(CorruptIndex):
        Home(store).commit(draft)
    store.spoil = None
    manifest = Home(store).commit(draft)
    assert words(Snapshot.open(Home(store), manifest)) == {"a": "apple"}


def test_only_builds_count_as_built(tmp_path: Path) -> None:
    index = Index(tmp_path, {"merge_factor": 2})
    for name in "abc":
        index.publish(index.add(name, name))
    plan = index.writer.plan_rebuild()
    assert plan
    index.writer.commit(plan, index.swap.publish)
    assert [manifest.generation for manifest in index.home.built_since(1)] == [3, 2]
    assert index.home.built_since(3) == index.home.built_since(4) == []
    assert Home(index.store, "NEXT-nothing").built_since(0) == []
