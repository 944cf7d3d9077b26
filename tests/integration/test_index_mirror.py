from __future__ import annotations

from pathlib import Path

import pytest
from index_support import Index, words

from pipeline.base.errors import Conflict, CorruptIndex
from pipeline.blobs.folder import FolderStore
from pipeline.index.home import Home
from pipeline.index.snapshot import Snapshot
from pipeline.index.upkeep import gc, rollback, verify_digests
from pipeline.sinks.mirror import Mirror


class CountingStore(FolderStore):
    """A folder that notes what is put into it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names: list[str] = []

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        self.names.append(name)
        return super().put(name, content, replacing=replacing, durable=durable)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index(tmp_path)
    index.publish(index.add("a", "apple"), index.add("b", "pear"))
    return index


@pytest.fixture
def target(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "mirror")


def mirrored(target: FolderStore) -> dict[str, str]:
    home = Home(target)
    found = home.current()
    assert found
    assert verify_digests(home) == []
    return words(Snapshot.open(home, found[0]))


def test_a_mirror_is_a_whole_index_and_leaves_the_source_whole(index: Index, target: CountingStore) -> None:
    Mirror(index.home, target).publish(index.current())
    assert mirrored(target) == index.words() == {"a": "apple", "b": "pear"}
    assert verify_digests(index.home) == []


def test_only_what_is_missing_is_copied_and_the_pointer_moves_last(index: Index, target: CountingStore) -> None:
    mirror = Mirror(index.home, target)
    mirror.publish(index.current())
    target.names.clear()
    index.publish(index.add("b", "plum"))
    mirror.publish(index.current())
    assert len(target.names) == 5
    assert target.names[-1] == "CURRENT"
    assert mirrored(target) == {"a": "apple", "b": "plum"}


def test_mirroring_again_changes_nothing_and_never_goes_back(index: Index, target: CountingStore) -> None:
    mirror, first = Mirror(index.home, target), index.current()
    index.publish(index.add("b", "plum"))
    mirror.publish(index.current())
    target.names.clear()
    mirror.publish(index.current())
    mirror.publish(first)
    assert target.names == []
    assert mirrored(target) == {"a": "apple", "b": "plum"}


def test_an_old_message_brings_the_mirror_to_what_is_served_now(index: Index, target: CountingStore) -> None:
    first = index.current()
    index.publish(index.add("a", "plum"), index.remove("b"))
    gc(index.home, 1, 0.0, 2.0**40)
    Mirror(index.home, target).publish(first)
    assert mirrored(target) == {"a": "plum"}


def test_a_rollback_is_mirrored_because_it_is_a_later_generation(index: Index, target: CountingStore) -> None:
    mirror = Mirror(index.home, target)
    index.publish(index.add("b", "plum"))
    mirror.publish(index.current())
    mirror.publish(rollback(index.home, 1))
    assert mirrored(target) == {"a": "apple", "b": "pear"}


def test_damage_is_not_mirrored(index: Index, target: CountingStore) -> None:
    index.publish(index.add("c", "plum"))
    name = next(name for name in index.current().names if name.endswith("sqlite"))
    path = index.store.root / name
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(CorruptIndex):
        Mirror(index.home, target).publish(index.current())
    assert Home(target).current() is None


def test_another_index_is_not_overwritten(index: Index, target: CountingStore, tmp_path: Path) -> None:
    other = Index(tmp_path / "other")
    other.publish(other.add("x", "kiwi"))
    Mirror(other.home, target).publish(other.current())
    with pytest.raises(Conflict, match="another index"):
        Mirror(index.home, target).publish(index.current())


def test_a_mirror_is_named_by_its_place(index: Index, target: CountingStore) -> None:
    assert Mirror(index.home, target).name == f"mirror {target.url}"
