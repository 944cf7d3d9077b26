"""What every source promises. A place is a source and the hands of somebody who drops documents into it.

To put another source under this contract, write a context manager that yields a Place and add it to PLACES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from watched import Watched

from pipeline.base.errors import DocumentError
from pipeline.base.model import Content, Unchanged
from pipeline.sources import Source
from pipeline.sources.folder.source import FolderSource

MAX_BYTES = 1000
"""Every place's source is made with this limit."""


class Place(Protocol):
    @property
    def source(self) -> Source: ...
    def put(self, name: str, data: bytes) -> str:
        """Create or overwrite the document; its uri."""
        ...

    def remove(self, name: str) -> None: ...
    def rename(self, name: str, to: str) -> None: ...


class Folder:
    def __init__(self, path: Path, *, polling: bool) -> None:
        self._path = path
        self.source = FolderSource(path, polling=polling, polling_interval=0.02, settle_after=0.05, max_bytes=MAX_BYTES)

    def put(self, name: str, data: bytes) -> str:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.source.root + name

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def rename(self, name: str, to: str) -> None:
        (self._path / name).rename(self._path / to)


@contextmanager
def folder(path: Path) -> Iterator[Place]:
    yield Folder(path, polling=False)


@contextmanager
def polled_folder(path: Path) -> Iterator[Place]:
    yield Folder(path, polling=True)


PLACES: dict[str, Callable[[Path], AbstractContextManager[Place]]] = {"folder": folder, "polled-folder": polled_folder}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with PLACES[request.param](tmp_path) as opened:
        yield opened


def test_the_root_ends_with_a_slash_and_begins_every_uri(place: Place) -> None:
    uri = place.put("a.txt", b"x")

    assert place.source.root.endswith("/")
    assert uri.startswith(place.source.root)
    assert [line.uri for line in place.source.list()] == [uri]


def test_a_usable_source_passes_its_check(place: Place) -> None:
    place.source.check()


def test_an_empty_place_lists_nothing(place: Place) -> None:
    assert list(place.source.list()) == []


NAMES = ["a", "a b", "a-b/x", "a.txt", "a/b/c.txt", "a1", "a+b", "a/0", "b", "ß", "á/z", "日本/語.txt", "z/ü", "z!", "zz/a", "Z"]


def test_listing_is_complete_and_ascends_in_bytes_across_folders(place: Place) -> None:
    uris = {place.put(name, name.encode()) for name in NAMES if name != "a"}

    listed = [line.uri for line in place.source.list()]

    assert listed == sorted(uris, key=str.encode)


def test_a_prefix_lists_what_is_below_it(place: Place) -> None:
    below = place.put("a/b.txt", b"x"), place.put("a/c/d.txt", b"x")
    place.put("a.txt", b"x")
    place.put("ab/c.txt", b"x")
    root = place.source.root

    assert [line.uri for line in place.source.list(f"{root}a/")] == list(below)
    assert list(place.source.list(f"{root}nothing here/")) == []
    assert len(list(place.source.list(root))) == 4


@pytest.mark.parametrize("name", ["plain.txt", "in a/folder.md", "with space + plus.txt", "ümlaut.txt", "日本語.txt", "q?#&=.txt"])
def test_what_was_put_is_listed_and_read(place: Place, name: str) -> None:
    uri = place.put(name, b"some bytes")

    (line,) = place.source.list()
    content = place.source.read(uri)

    assert isinstance(content, Content)
    assert (line.uri, line.size) == (uri, 10)
    assert (content.uri, content.data, content.version) == (uri, b"some bytes", line.version)
    assert content.media_type == ("text/markdown" if name.endswith(".md") else "text/plain")
    assert content.modified_at > 1.6e9


def test_an_empty_document_is_content(place: Place) -> None:
    content = place.source.read(place.put("empty.txt", b""))

    assert isinstance(content, Content)
    assert content.data == b""


def test_a_known_version_is_not_transferred_again(place: Place) -> None:
    uri = place.put("a.txt", b"x")
    content = place.source.read(uri)
    assert isinstance(content, Content)

    assert place.source.read(uri, content.version) == Unchanged(content.version)
    assert isinstance(place.source.read(uri, "another version"), Content)


def test_an_overwrite_of_the_same_size_is_another_version(place: Place) -> None:
    uri = place.put("a.txt", b"old")
    before = place.source.read(uri)
    assert isinstance(before, Content)

    place.put("a.txt", b"new")
    after = place.source.read(uri, before.version)

    assert isinstance(after, Content)
    assert (after.data, after.version != before.version) == (b"new", True)


def test_what_is_gone_or_never_was_is_none(place: Place) -> None:
    uri = place.put("a/b.txt", b"x")
    place.remove("a/b.txt")

    assert place.source.read(uri) is None
    assert place.source.read(uri, "a version") is None
    assert place.source.read(f"{place.source.root}a") is None
    assert list(place.source.list()) == []


def test_the_largest_document_is_read_and_a_larger_one_refused_with_its_version(place: Place) -> None:
    largest = place.put("largest.txt", b"x" * MAX_BYTES)
    larger = place.put("larger.txt", b"x" * (MAX_BYTES + 1))
    versions = {line.uri: line.version for line in place.source.list()}

    assert isinstance(place.source.read(largest), Content)
    with pytest.raises(DocumentError, match="1001 bytes, more than the 1000") as refusal:
        place.source.read(larger)

    assert refusal.value.version == versions[larger]


def test_a_renamed_document_is_read_under_its_new_name_only(place: Place) -> None:
    old = place.put("old.txt", b"x")
    place.rename("old.txt", "new.txt")
    new = place.source.root + "new.txt"

    assert place.source.read(old) is None
    assert isinstance(place.source.read(new), Content)
    assert [line.uri for line in place.source.list()] == [new]


def test_an_armed_watch_tells_of_everything_that_happens(place: Place) -> None:
    overwritten, removed, old = (place.put(name, b"before") for name in ("overwritten.txt", "removed.txt", "old.txt"))
    new = place.source.root + "new.txt"

    with Watched(place.source) as watched:
        created = place.put("created.txt", b"x")
        place.put("overwritten.txt", b"afterwards")
        place.remove("removed.txt")
        place.rename("old.txt", "new.txt")

        watched.wait_for(created, overwritten, removed, old, new)


def test_a_watch_can_be_taken_again(place: Place) -> None:
    for name in ("a.txt", "b.txt"):
        with Watched(place.source) as watched:
            watched.wait_for(place.put(name, b"x"))
