"""Blobs in a folder. A name appears whole or not at all, and what `put` returned from survives a power cut.

So content is written beside the blobs (`.tmp/`), fsynced, renamed into place, and then its folders are fsynced up to
the root: a rename whose folder was not synced may be undone. Compare-and-set holds an flock on `.lock`, so it also
holds between processes. A crash leaves nothing but a file in `.tmp/`; the first `put` of a later process sweeps those.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from pipeline.base.errors import Conflict, CorruptIndex
from pipeline.blobs import ABSENT, Blob, BlobInfo
from pipeline.blobs.disk import FILE_MODE, STALE_AFTER, explained, fsync, make_folder
from pipeline.blobs.names import checked, checked_prefix

PLACING_ATTEMPTS: Final = 100
"""A `delete` may remove a folder it just emptied between our making it and our renaming into it; we make it again."""


class FolderStore:
    """A BlobStore in `root`, which the first `put` creates. The etag is the content's sha256."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._temporary = self.root / ".tmp"
        self._swept = False

    @property
    def url(self) -> str:
        return f"file:{self.root}"

    def get(self, name: str) -> Blob | None:
        path = self.root / checked(name)
        with explained("read", path):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        return Blob(data, hashlib.sha256(data).hexdigest())

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        """See BlobStore. A Path is gone afterwards, whether or not the put succeeded."""
        target = self.root / checked(name)
        with explained("write", target):
            staged = self._stage(content)
            try:
                etag = _seal(staged, durable=durable)
                with nullcontext() if replacing is None else self._locked():
                    if replacing is not None:
                        self._compare(name, replacing)
                    self._place(staged, target)
            finally:
                staged.unlink(missing_ok=True)
            if durable:
                self._sync_folders(target.parent)
        return etag

    def fetch(self, name: str, *, digest: str = "") -> Path:
        path = self.root / checked(name)
        with explained("read", path):
            if not path.is_file():
                raise CorruptIndex(f"{name} is missing from {self.url}", hint="dropdex verify tells what else is damaged")
        return path

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See BlobStore. In ascending order of the name's bytes."""
        folder = checked_prefix(prefix).rpartition("/")[0]
        with explained("list", self.root / folder):
            yield from self._walk(folder, prefix)

    def delete(self, name: str) -> None:
        path = self.root / checked(name)
        with explained("delete", path):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            self._prune(path.parent)

    def sweep(self, older_than: float = STALE_AFTER) -> int:
        """Remove temporary files that rest for more than `older_than` seconds; return how many there were."""
        stale_since, removed = time.time() - older_than, 0
        with explained("sweep", self._temporary):
            for path in self._temporary.glob("*"):
                with suppress(FileNotFoundError):
                    if path.stat().st_ctime <= stale_since:  # a moved file keeps its mtime, its ctime is the move
                        path.unlink()
                        removed += 1
        return removed

    def _stage(self, content: bytes | Path) -> Path:
        """Bring `content` under a temporary name on the store's own file system, where a rename is atomic."""
        make_folder(self._temporary)
        if not self._swept:
            self._swept = True
            self.sweep()
        staged = self._temporary / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            if isinstance(content, bytes):
                staged.write_bytes(content)
            else:
                _move(content, staged)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return staged

    def _compare(self, name: str, expected: str) -> None:
        current = self.get(name)
        if (current.etag if current else ABSENT) != expected:
            raise Conflict(f"somebody else has written {name} in {self.url}")

    def _place(self, staged: Path, target: Path) -> None:
        for attempt in range(1, PLACING_ATTEMPTS + 1):
            try:
                make_folder(target.parent)
                staged.replace(target)
            except FileNotFoundError:
                if attempt == PLACING_ATTEMPTS:
                    raise
            else:
                return

    def _sync_folders(self, folder: Path) -> None:
        """Fsync `folder` and those above it, up to the one that holds the root. Costs next to nothing where nothing changed."""
        while True:
            with suppress(FileNotFoundError, PermissionError):  # just pruned; or above the root and not ours to open
                fsync(folder)
            if folder in {self.root.parent, folder.parent}:
                return
            folder = folder.parent

    def _walk(self, folder: str, prefix: str) -> Iterator[BlobInfo]:
        found: list[tuple[bytes, str, os.DirEntry[str]]] = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                name += "/" if entry.is_dir() else ""
                if not entry.name.startswith(".") and (name.startswith(prefix) or prefix.startswith(name)):
                    found.append((os.fsencode(name), name, entry))
        for _, name, entry in sorted(found, key=lambda item: item[0]):
            if name.endswith("/"):
                yield from self._walk(name[:-1], prefix)
            elif name.startswith(prefix):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield BlobInfo(name, status.st_size, status.st_mtime)

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty, so that collected segments leave nothing behind."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return
            folder = folder.parent

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all threads and processes that compare-and-set in this folder. Closing the file lets go."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(source, target)
        source.unlink()


def _seal(path: Path, *, durable: bool) -> str:
    """Give the file its mode, bring it to the disk, and return its etag."""
    with path.open("rb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        if durable:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
