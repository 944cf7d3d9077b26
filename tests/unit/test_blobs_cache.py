"""The cache holds whole, verified copies, forgets the least recently used, and takes nothing away from a reader."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base.errors import CorruptIndex, Unavailable
from pipeline.blobs.cache import Cache

STORE = "s3://bucket/home"


def writes(content: bytes) -> Callable[[Path], None]:
    def download(path: Path) -> None:
        path.write_bytes(content)

    return download


def never(path: Path) -> None:
    raise AssertionError(f"{path} was downloaded again")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rest(path: Path, seconds: float) -> None:
    """Let `seconds` pass since the last use."""
    at = time.time() - seconds
    os.utime(path, (at, at))


def left_behind(cache: Cache) -> list[Path]:
    return list((cache.directory / ".tmp").iterdir())


def test_the_second_time_nothing_is_downloaded(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    path = cache.fetch(STORE, "segments/a/x", digest(b"x"), writes(b"x"))
    assert path.read_bytes() == b"x"
    assert Cache(tmp_path, 1000).fetch(STORE, "segments/a/x", digest(b"x"), never) == path
    assert left_behind(cache) == []


def test_stores_names_and_digests_are_kept_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    keys = [(STORE, "a/x", ""), ("s3://bucket/other", "a/x", ""), (STORE, "b/x", ""), (STORE, "a/x", digest(b"3"))]
    paths = [cache.fetch(*key, writes(b"%d" % number)) for number, key in enumerate(keys)]
    assert [path.read_bytes() for path in paths] == [b"0", b"1", b"2", b"3"]


def test_bytes_that_are_not_what_the_manifest_says_are_refused_and_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    with pytest.raises(CorruptIndex, match="segments/a/x has sha256"):
        cache.fetch(STORE, "segments/a/x", digest(b"right"), writes(b"wrong"))
    assert left_behind(cache) == []
    assert cache.fetch(STORE, "segments/a/x", digest(b"right"), writes(b"right")).read_bytes() == b"right"


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def breaks(path: Path) -> None:
        path.write_bytes(b"half")
        raise Unavailable("the connection broke")

    cache = Cache(tmp_path, 1000)
    with pytest.raises(Unavailable):
        cache.fetch(STORE, "x", "", breaks)
    assert left_behind(cache) == []
    assert cache.fetch(STORE, "x", "", writes(b"whole")).read_bytes() == b"whole"


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    # Given three copies of 400 bytes in a cache for 1,000, none in use lately
    cache = Cache(tmp_path, 1000)
    first, second = (cache.fetch(STORE, name, "", writes(bytes(400))) for name in ("first", "second"))
    rest(first, 300)
    rest(second, 200)
    # When the older one is used again and a third comes
    cache.fetch(STORE, "first", "", never)
    third = cache.fetch(STORE, "third", "", writes(bytes(400)))
    # Then the one that rested longest is gone
    assert [path.exists() for path in (first, second, third)] == [True, False, True]


def test_a_copy_just_handed_out_stays_even_beyond_the_bound(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 500)
    paths = [cache.fetch(STORE, f"{number}", "", writes(bytes(400))) for number in range(3)]
    assert all(path.exists() for path in paths)


def test_whoever_has_a_copy_mapped_keeps_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 500)
    path = cache.fetch(STORE, "mapped", "", writes(b"m" * 400))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        rest(path, 300)
        cache.fetch(STORE, "other", "", writes(bytes(400)))
        assert not path.exists()
        assert mapped[:] == b"m" * 400


def test_what_crashed_downloads_left_is_swept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    cache.fetch(STORE, "a", "", writes(b"x"))
    stale, recent = (cache.directory / ".tmp" / name for name in ("stale", "recent"))
    stale.write_bytes(b"x")
    recent.write_bytes(b"x")
    rest(stale, 100_000)
    cache.fetch(STORE, "b", "", writes(b"x"))
    assert left_behind(cache) == [recent]


def test_many_at_once_get_whole_copies(tmp_path: Path) -> None:
    contents = {f"segments/{letter}/x": letter.encode() * 50_000 for letter in "abcd"}
    cache = Cache(tmp_path, 60_000)

    def read(number: int) -> bool:
        name, content = list(contents.items())[number % len(contents)]
        return cache.fetch(STORE, name, digest(content), writes(content)).read_bytes() == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))
    assert left_behind(cache) == []
