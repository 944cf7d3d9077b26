"""From an operator's URL to a store. A folder's store never imports the AWS libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pipeline.base.errors import ConfigurationError
from pipeline.blobs import BlobStore
from pipeline.blobs.cache import Cache
from pipeline.blobs.folder import FolderStore

CACHE_BYTES: Final = 10 * 2**30
HINT: Final = "write file:PATH or s3://bucket/prefix, for example file:./index"


def open_store(url: str, *, cache_dir: Path | None = None, cache_bytes: int = CACHE_BYTES) -> BlobStore:
    """The store at file:PATH or s3://bucket/prefix. Nothing is created or reached yet.

    `cache_dir` holds local copies of a bucket's blobs, about `cache_bytes` at the most; without one, ~/.cache/dropdex.
    """
    if url.startswith("file:"):
        return FolderStore(_folder(url))
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket or any(mark in url for mark in "?#"):
            raise ConfigurationError(f"{url!r} does not name a bucket and a prefix", hint=HINT)
        from pipeline.blobs.s3 import S3Store

        return S3Store(bucket, prefix, cache=Cache(cache_dir or Path.home() / ".cache" / "dropdex", cache_bytes))
    raise ConfigurationError(f"{url!r} is no place that an index can lie in", hint=HINT)


def _folder(url: str) -> Path:
    path = url.removeprefix("file:")
    if not path or (path.startswith("//") and not path.startswith("///")):
        raise ConfigurationError(f"{url!r} does not name a folder", hint="write file:./index or file:/srv/index")
    return Path(path).expanduser()
