"""Local copies of remote blobs, for memory-mapping. Bounded, shared by processes, and never half a file.

A copy is downloaded under a temporary name, verified, fsynced and renamed: several processes may fetch the same blob
and the last rename wins with the same bytes. The least recently used copies go first; whoever has one mapped keeps it.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.base.errors import CorruptIndex
from pipeline.blobs.disk import FILE_MODE, STALE_AFTER, explained, fsync, make_folder

GRACE_SECONDS: Final = 60.0
"""Between returning a path and its opening by the caller nobody may evict it, even if the bound is exceeded for a while."""


class _Copy(NamedTuple):
    used_at: float
    size: int
    path: Path


class Cache:
    """Copies in `directory`, together about `max_bytes` at the most."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory.absolute()
        self.max_bytes = max_bytes
        self._temporary = self.directory / ".tmp"

    def fetch(self, store: str, name: str, digest: str, download: Callable[[Path], None]) -> Path:
        """The local copy of `name` of the store with that url. `download` fills a new one; `digest`, if any, must match.

        The digest is part of the copy's name, so a home that was deleted and made anew is never read from old copies.
        """
        key = hashlib.sha256(f"{store}\n{name}\n{digest}".encode()).hexdigest()[:32]
        path = self.directory / key[:2] / f"{key}-{name.rpartition('/')[2][-100:]}"
        with explained("cache", path):
            try:
                os.utime(path)
            except FileNotFoundError:
                self._fill(path, name, digest, download)
        return path

    def _fill(self, path: Path, name: str, digest: str, download: Callable[[Path], None]) -> None:
        make_folder(self._temporary)
        make_folder(path.parent)
        staged = self._temporary / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            download(staged)
            if digest:
                _verify(staged, name, digest)
            staged.chmod(FILE_MODE)
            fsync(staged)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        self._evict()

    def _evict(self) -> None:
        """Remove the least recently used copies beyond the bound, and what crashed downloads left."""
        now = time.time()
        for stale in _files(self._temporary):
            if now - stale.used_at > STALE_AFTER:
                stale.path.unlink(missing_ok=True)
        copies = sorted(copy for folder in self.directory.glob("[0-9a-f][0-9a-f]") for copy in _files(folder))
        excess = sum(copy.size for copy in copies) - self.max_bytes
        for copy in copies:
            if excess <= 0 or now - copy.used_at < GRACE_SECONDS:
                return
            copy.path.unlink(missing_ok=True)
            excess -= copy.size


def _files(folder: Path) -> Iterator[_Copy]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                status = entry.stat()
                yield _Copy(status.st_mtime, status.st_size, Path(entry.path))


def _verify(path: Path, name: str, digest: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise CorruptIndex(
            f"{name} has sha256 {found[:12]}…, its manifest says {digest[:12]}…", hint="dropdex verify tells what else is damaged"
        )
