"""A folder and everything below it as a source. Only regular files count, and nothing outside the root is ever read.

Symbolic links are not followed, neither to files nor to folders: a link to something inside names a document that
is indexed anyway and would go stale unnoticed (changes are reported where they happen), and a link to something
outside must not pull it in. Every part of a path is opened without following links, so no race opens a way out.

A version is mtime, ctime and size. ctime because a copy can set mtime back and nobody can set ctime; not the inode,
because FUSE file systems hand out new ones at will. A touch or a chmod costs one more read and no embedding.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from pipeline.base.errors import ConfigurationError, DocumentError, DocumentInMotion, Unavailable
from pipeline.base.model import Content, Delivery, DocumentEvent, Listed, Overflow, Unchanged
from pipeline.sources.names import Ignore, media_type, name_to_text, text_to_name, uri_to_path
from pipeline.sources.walk import GONE, Walk, regular_file

__all__ = ["FolderSource"]

BATCH = 500
"""Events per delivery at the most: enough to make the hand-over cheap, few enough to start early."""

LOOK_AGAIN = 0.2
"""Seconds after which an idle watch looks whether it should stop and whether its root is still there."""

TICK = 0.012
"""Seconds that a file must be old before it is read: the kernel's clock ticks up to every 10 ms, and two writes of one
size within a tick would carry one version."""

DENIED = {errno.EACCES, errno.EPERM}

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_BELOW = _FOLDER | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without O_NONBLOCK, a FIFO put in a file's place between two calls would block for ever."""


def version_of(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"


class FolderSource:
    """Implements Source for a directory tree. `ignore` are shell patterns that no part of a path may match."""

    def __init__(
        self,
        root: Path,
        *,
        ignore: Sequence[str] = (),
        polling: bool = False,
        polling_interval: float = 1.0,
        settle_after: float = 0.5,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        self._path = os.path.realpath(os.fsencode(root))
        self._below = self._path.rstrip(b"/") + b"/"
        self._root = "file://" + name_to_text(self._below)
        self._ignore = Ignore(ignore)
        self._polling = polling
        self._polling_interval = polling_interval
        self._settle_after = settle_after
        self._max_bytes = max_bytes
        self._device: int | None = None

    @property
    def root(self) -> str:
        return self._root

    def check(self) -> None:
        try:
            with os.scandir(self._path) as entries:
                next(entries, None)
        except FileNotFoundError:
            raise ConfigurationError(f"the watched folder {self._name} does not exist", hint=f"mkdir -p {self._name}") from None
        except NotADirectoryError:
            raise ConfigurationError(f"{self._name} is not a folder", hint="name a folder in DROPDEX_SOURCES") from None
        except OSError as error:
            raise ConfigurationError(
                f"the watched folder {self._name} cannot be read: {error.strerror}", hint=f"chmod u+rx {self._name}"
            ) from error

    # Listing -----------------------------------------------------------------------------------------------------

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Goes on past a folder that cannot be read, and raises Unavailable for it at the end."""
        self._require_root()
        walk = Walk(self._below, self._ignore)
        start = self._start(prefix or self._root)
        if start is not None:
            for name, status in walk.files(start):
                yield Listed(self._root + name, version_of(status), status.st_size)
        self._require_root()
        if walk.unreadable:
            raise Unavailable(
                f"{len(walk.unreadable)} watched folders cannot be listed, the first is {walk.unreadable[0]}",
                hint="make them readable, or ignore them with DROPDEX_IGNORE",
            )

    def _start(self, prefix: str) -> bytes | None:
        """The relative folder that a uri prefix names, with a slash at its end; b"" for the root, None for nowhere."""
        if prefix == self._root:
            return b""
        folder = uri_to_path(self._root, prefix.removesuffix("/"))
        if folder is None or self._ignore.path(folder):
            return None
        try:
            with self._folder_of(folder + b"/"):
                return folder + b"/"
        except OSError as error:
            if error.errno in GONE:
                return None
            raise Unavailable(f"{prefix} cannot be listed now: {error.strerror}") from error

    # Looking -----------------------------------------------------------------------------------------------------

    def read(self, uri: str, known_version: str = "") -> Content | Unchanged | None:
        path = uri_to_path(self._root, uri)
        if path is None or self._ignore.path(path):
            return None
        version = ""
        try:
            with self._folder_of(path) as folder:
                name = path.rpartition(b"/")[2]
                before = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISREG(before.st_mode):
                    return None
                version = version_of(before)
                if version == known_version:
                    return Unchanged(version)
                self._refuse_if_too_large(before, uri)
                data = _read(folder, name, before, uri)
        except OSError as error:
            if error.errno in GONE:
                return None
            if error.errno in DENIED:
                raise DocumentError(f"{uri} cannot be read: {error.strerror}", hint="chmod a+r the file", version=version) from error
            raise Unavailable(f"{uri} cannot be read now: {error.strerror}") from error
        return Content(uri, version, data, media_type(uri), before.st_mtime)

    @contextmanager
    def _folder_of(self, path: bytes) -> Iterator[int]:
        """A descriptor of the folder part of `path` (all of it, where it ends with a slash), reached without following a link."""
        folder = self._open_root()
        try:
            for part in path.split(b"/")[:-1]:
                below = os.open(part, _FOLDER_BELOW, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    def _open_root(self) -> int:
        """Raises Unavailable where there is no root: its documents are out of reach, not gone."""
        try:
            root = os.open(self._path, _FOLDER)
        except OSError as error:
            raise self._rootless(error.strerror or "it cannot be opened") from error
        device = os.fstat(root).st_dev
        if self._device is None:
            self._device = device
        if device != self._device:
            os.close(root)
            raise self._rootless("it lies on another file system than before, restart if that is meant")
        return root

    def _rootless(self, reason: str) -> Unavailable:
        return Unavailable(f"the watched folder {self._name} is not there: {reason}", hint=f"create or mount {self._name} again")

    def _require_root(self) -> tuple[int, int]:
        """Which folder the root is now: device and inode."""
        root = self._open_root()
        try:
            status = os.fstat(root)
        finally:
            os.close(root)
        return status.st_dev, status.st_ino

    def _refuse_if_too_large(self, status: os.stat_result, uri: str) -> None:
        if status.st_size > self._max_bytes:
            raise DocumentError(
                f"{uri} has {status.st_size} bytes, more than the {self._max_bytes} that are allowed",
                hint="raise DROPDEX_MAX_DOCUMENT_BYTES",
                version=version_of(status),
            )

    @property
    def _name(self) -> str:
        return name_to_text(self._path)

    # Watching ----------------------------------------------------------------------------------------------------

    def watch(self, stop: Event) -> Iterator[Delivery | Overflow]:
        """Files that were closed, moved or deleted are told at once; files that nobody closes, when they have settled.

        Overflow names the root after lost events, or a folder that was moved away: what it contained is not known here.
        Raises Unavailable when the root vanishes, ConfigurationError when the kernel's limit of watches is reached.
        """
        from pipeline.sources.folder.kernel import Inbox, watch_kernel, watch_polling

        root = self._require_root()
        inbox = Inbox(self._root, self._settle_after)
        watching = (
            watch_polling(self._path, self._root, self._ignore, inbox, self._polling_interval)
            if self._polling
            else watch_kernel(self._path, self._root, self._ignore, inbox)
        )
        pause = min(LOOK_AGAIN, max(self._settle_after / 2, TICK))
        with watching:
            yield Delivery(())
            while not stop.is_set():
                uris, lost = inbox.take(BATCH, pause)
                if self._require_root() != root:
                    raise self._rootless("another folder has taken its place")
                if uris:
                    yield Delivery(tuple(self._event(uri) for uri in uris))
                for prefix in lost:
                    yield Overflow(prefix)
                inbox.settle(self._seen, time.monotonic())

    def _event(self, uri: str) -> DocumentEvent:
        status = self._status(uri)
        return DocumentEvent(uri, size=status.st_size if status else None)

    def _seen(self, uri: str) -> tuple[int, int] | None:
        """Size and mtime of a file in motion; None where it is gone."""
        status = self._status(uri)
        return (status.st_size, status.st_mtime_ns) if status else None

    def _status(self, uri: str) -> os.stat_result | None:
        return regular_file(self._below + text_to_name(uri[len(self._root) :]))


def _read(folder: int, name: bytes, before: os.stat_result, uri: str) -> bytes:
    """The bytes of exactly the version `before`, and never more than one beyond its size."""
    age = time.time() - before.st_ctime
    if 0 <= age < TICK:
        time.sleep(TICK - age)
    file = os.open(name, _FILE, dir_fd=folder)
    try:
        data = _bytes(file, before.st_size)
        after = os.fstat(file)
    finally:
        os.close(file)
    named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    same_file = os.path.samestat(before, after) and os.path.samestat(after, named)
    if not same_file or len(data) != before.st_size or not version_of(before) == version_of(after) == version_of(named):
        raise DocumentInMotion(f"{uri} changed while it was read")
    return data


def _bytes(file: int, size: int) -> bytes:
    """Up to `size` + 1 bytes: the one more tells that the file has grown."""
    chunks, wanted = [], size + 1
    while wanted and (chunk := os.read(file, wanted)):
        chunks.append(chunk)
        wanted -= len(chunk)
    return b"".join(chunks)
