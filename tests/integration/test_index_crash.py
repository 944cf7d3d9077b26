"""A publication that dies at any step leaves the old generation or the new one, whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_support import Index

from pipeline.base.errors import Conflict, Unavailable
from pipeline.blobs.folder import FolderStore
from pipeline.index.home import Home
from pipeline.index.upkeep import gc, verify_digests
from pipeline.sinks.mirror import Mirror
from pipeline.sinks.swap import Swap

OLD = {"a": "apple", "b": "pear"}
NEW = {"a": "plum", "c": "fig"}


class DyingStore(FolderStore):
    """A folder that dies at the n-th put, before or after it is done."""

    def __init__(self, root: Path, puts: int, *, after: bool) -> None:
        super().__init__(root)
        self.left = puts
        self._after = after

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        self.left -= 1
        if self.left == 0 and not self._after:
            raise Unavailable("died")
        etag = super().put(name, content, replacing=replacing, durable=durable)
        if self.left == 0:
            raise Unavailable("died")
        return etag


@pytest.mark.parametrize("after", [False, True])
def test_current_opens_to_a_whole_generation_wherever_a_publication_dies(tmp_path: Path, after: bool) -> None:
    for puts in range(1, 20):
        # Given a published generation and a draft of the next
        index = Index(tmp_path / str(puts))
        index.publish(index.add("a", "apple"), index.add("b", "pear"))
        draft = index.draft(index.add("a", "plum"), index.add("c", "fig"), index.remove("b"))
        store = DyingStore(index.store.root, puts, after=after)
        # When publishing dies at this put
        try:
            Swap(Home(store)).publish(draft)
        except Unavailable:
            died = True
        else:
            died = False
        # Then what CURRENT names is the old generation or the new one, and nothing is damaged
        assert index.words() in (OLD, NEW)
        assert verify_digests(index.home) == []
        # And publishing the same draft again completes it
        index.swap.publish(draft)
        assert index.words() == NEW
        if not died:
            assert puts == 4 + 1
            return
    raise AssertionError("publishing never ended")


def test_what_a_dead_publication_left_is_collected(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    with pytest.raises(Unavailable):
        Swap(Home(DyingStore(index.store.root, 5, after=False))).publish(index.draft(index.add("a", "plum")))
    deleted = gc(index.home, 1, 0.0, 2.0**40)
    assert {name.partition("/")[0] for name in deleted} == {"segments", "manifests", "deletes"}
    assert index.words() == OLD
    assert verify_digests(index.home) == []


def test_a_mirror_opens_to_a_whole_generation_wherever_mirroring_dies(tmp_path: Path) -> None:
    index = Index(tmp_path)
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    Mirror(index.home, FolderStore(tmp_path / "mirror")).publish(index.current())
    index.publish(index.add("a", "plum"), index.add("c", "fig"), index.remove("b"))
    for puts in range(1, 20):
        store = DyingStore(tmp_path / "mirror", puts, after=False)
        try:
            Mirror(index.home, store).publish(index.current())
        except Unavailable:
            there = Home(FolderStore(tmp_path / "mirror")).current()
            assert there
            assert there[0].generation == 1
            assert verify_digests(Home(FolderStore(tmp_path / "mirror"))) == []
        else:
            there = Home(FolderStore(tmp_path / "mirror")).current()
            assert there
            assert there[0] == index.current()
            return
    raise AssertionError("mirroring never ended")


def test_a_draft_whose_files_were_lost_has_to_be_drafted_again(tmp_path: Path) -> None:
    index = Index(tmp_path)
    draft = index.draft(index.add("a", "apple"))
    for _, content in draft.files:
        assert isinstance(content, Path)
        content.unlink()
    with pytest.raises(Conflict):
        index.swap.publish(draft)
