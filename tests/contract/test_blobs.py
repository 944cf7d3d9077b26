"""What every BlobStore promises, asked of each: a folder, and a bucket on an S3 emulator of the session's own."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

from pipeline.base.errors import Conflict, CorruptIndex
from pipeline.blobs import ABSENT, BlobStore
from pipeline.blobs.cache import Cache
from pipeline.blobs.folder import FolderStore
from pipeline.blobs.s3 import S3Store


@pytest.fixture(scope="module")
def bucket(s3_options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """One client for all tests, as making one takes longer than most of them."""
    store = S3Store("home", "", cache=Cache(tmp_path_factory.mktemp("cache"), 2**30), **s3_options)
    yield store
    store.client.close()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderStore(tmp_path / "home")
    s3: S3Store = request.getfixturevalue("bucket")
    s3.prefix = uuid.uuid4().hex
    return s3


def names(store: BlobStore, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


def test_what_was_put_can_be_got(store: BlobStore) -> None:
    etag = store.put("segments/ab/passages.sqlite", b"text")
    blob = store.get("segments/ab/passages.sqlite")
    assert blob is not None
    assert (blob.data, blob.etag) == (b"text", etag)


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    store.put("empty", b"")
    blob = store.get("empty")
    assert blob is not None
    assert blob.data == b""
    assert store.fetch("empty").read_bytes() == b""


def test_a_missing_blob_is_none_to_get_and_damage_to_fetch(store: BlobStore) -> None:
    assert store.get("nothing") is None
    assert store.get("no/where/near") is None
    with pytest.raises(CorruptIndex, match="nothing is missing"):
        store.fetch("nothing")


def test_a_folder_of_blobs_is_no_blob(store: BlobStore) -> None:
    store.put("segments/ab/index.faiss", b"vectors")
    assert store.get("segments/ab") is None
    assert store.get("segments/ab/index.faiss/x") is None


def test_a_path_is_consumed(store: BlobStore, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_bytes(b"vectors")
    etag = store.put("segments/ab/index.faiss", built)
    blob = store.get("segments/ab/index.faiss")
    assert blob is not None
    assert (blob.data, blob.etag) == (b"vectors", etag)
    assert not built.exists()


def test_fetch_gives_a_file_that_outlives_its_blob(store: BlobStore) -> None:
    content = os.urandom(100_000)
    store.put("segments/ab/index.faiss", content)
    with store.fetch("segments/ab/index.faiss", digest=hashlib.sha256(content).hexdigest()).open("rb") as file:
        store.delete("segments/ab/index.faiss")
        assert file.read() == content


def test_listing_is_by_prefix_and_in_byte_order(store: BlobStore) -> None:
    given = ["CURRENT", "segments/a/x", "segments/a.b", "segments/a0", "segments/ä/x", "segments/b/y/z", "segmentz", "shards/r/1"]
    for name in reversed(given):
        store.put(name, b"x", durable=False)
    assert names(store) == sorted(given, key=str.encode)
    assert names(store, "segments/") == ["segments/a.b", "segments/a/x", "segments/a0", "segments/b/y/z", "segments/ä/x"]
    assert names(store, "segment") == [*names(store, "segments/"), "segmentz"]
    assert names(store, "segments/a") == ["segments/a.b", "segments/a/x", "segments/a0"]
    assert names(store, "segments/b/y/z") == ["segments/b/y/z"]
    assert names(store, "nothing/") == []


def test_listing_tells_size_and_age(store: BlobStore) -> None:
    store.put("manifests/1.json", b"12345")
    (info,) = store.list("manifests/")
    assert info.size == 5
    assert abs(info.modified_at - time.time()) < 60


def test_listing_more_than_a_page(store: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"shards/{number:05}", b"", durable=False), range(1_100)))
    assert names(store, "shards/") == [f"shards/{number:05}" for number in range(1_100)]


def test_an_empty_store_lists_nothing(store: BlobStore) -> None:
    assert names(store) == []


def test_a_conditional_write_leaves_nothing_else_in_the_listing(store: BlobStore) -> None:
    store.put("CURRENT", b"1", replacing=ABSENT)
    assert names(store) == ["CURRENT"]


def test_deleting_twice_is_as_good_as_once(store: BlobStore) -> None:
    store.put("segments/ab/x", b"x")
    store.delete("segments/ab/x")
    store.delete("segments/ab/x")
    assert store.get("segments/ab/x") is None
    assert names(store) == []


def test_the_pointer_moves_by_compare_and_set(store: BlobStore) -> None:
    # Given a pointer that was written once
    first = store.put("CURRENT", b"1", replacing=ABSENT)
    # When it must be absent, then that is a conflict
    with pytest.raises(Conflict, match="CURRENT"):
        store.put("CURRENT", b"2", replacing=ABSENT)
    # When it is replaced by its tag, then the old tag is worth nothing any more
    second = store.put("CURRENT", b"2", replacing=first)
    with pytest.raises(Conflict):
        store.put("CURRENT", b"3", replacing=first)
    blob = store.get("CURRENT")
    assert blob is not None
    assert (blob.data, blob.etag) == (b"2", second)


def test_replacing_what_is_gone_is_a_conflict(store: BlobStore) -> None:
    etag = store.put("CURRENT", b"1", replacing=ABSENT)
    store.delete("CURRENT")
    with pytest.raises(Conflict):
        store.put("CURRENT", b"2", replacing=etag)
    assert store.get("CURRENT") is None


def test_no_increment_of_sixteen_threads_is_lost(store: BlobStore) -> None:
    # Given sixteen threads that each count to three by compare-and-set
    def count(_: int) -> None:
        for _ in range(3):
            while True:
                blob = store.get("CURRENT")
                try:
                    store.put(
                        "CURRENT", b"%d" % (int(blob.data) + 1 if blob else 1), replacing=blob.etag if blob else ABSENT, durable=False
                    )
                except Conflict:
                    continue
                break

    # When all are through
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(count, range(16)))
    # Then every one of them counted
    blob = store.get("CURRENT")
    assert blob is not None
    assert blob.data == b"48"


def test_of_many_that_create_one_wins(store: BlobStore) -> None:
    def create(number: int) -> bool:
        try:
            store.put("CURRENT", b"%d" % number, replacing=ABSENT)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_a_reader_sees_all_of_a_blob_or_the_one_before(store: BlobStore) -> None:
    # Given a pointer that is rewritten all the time with contents of one letter each
    store.put("CURRENT", b"a" * 50_000)
    stop = Event()

    def write() -> None:
        while not stop.is_set():
            for letter in (b"b", b"c"):
                store.put("CURRENT", letter * 50_000, durable=False)

    writer = Thread(target=write)
    writer.start()
    try:
        # When it is read meanwhile, then it is never torn
        for _ in range(100):
            blob = store.get("CURRENT")
            assert blob is not None
            assert len(blob.data) == 50_000
            assert len(set(blob.data)) == 1
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.tmp/b", "a\0b", "a\\b"])
def test_a_name_stays_within_the_store_and_in_sight(store: BlobStore, name: str) -> None:
    for act in (store.get, store.fetch, store.delete, lambda bad: store.put(bad, b"x")):
        with pytest.raises(ValueError, match="is no name for a blob"):
            act(name)


def test_its_url_is_what_an_operator_would_write(store: BlobStore, tmp_path: Path) -> None:
    assert store.url == f"file:{tmp_path}/home" or store.url.startswith("s3://home/")
