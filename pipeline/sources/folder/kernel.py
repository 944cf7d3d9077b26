"""How a folder tells of its changes: by kernel events (inotify) or by polling. The only module that knows watchdog.

One thread listens and fills an Inbox, another empties it. A file is told as soon as it is complete: no event waits
for another one. That is why watchdog's own emitter is not used, which holds back moves for half a second to pair
them; here both sides of a move are events of their own. Whatever can be lost ends as `lost`, never in silence:
a full inbox, a full kernel queue, a folder that moved away.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor
from watchdog.observers.polling import PollingObserverVFS

from pipeline.base.errors import ConfigurationError, DropdexError, Unavailable
from pipeline.sources.names import Ignore, name_to_text
from pipeline.sources.settle import Settler

__all__ = ["Inbox", "watch_kernel", "watch_polling"]

log = logging.getLogger(__name__)

CAPACITY = 100_000
"""Uris that wait for a slow reader, some 20 MB; beyond them a listing is cheaper."""


class Inbox:
    """What happened and was not taken yet: each uri once. Filled by one thread, emptied by another, never blocks the first."""

    def __init__(self, root: str, settle_after: float, *, capacity: int = CAPACITY) -> None:
        self._root = root
        self._capacity = capacity
        self._settle_every = settle_after / 2
        self._settled_at = 0.0
        self._news = threading.Condition()
        self._changed: dict[str, None] = {}
        self._lost: dict[str, None] = {}
        self._settler = Settler(settle_after)
        self._error: DropdexError | None = None

    def changed(self, uri: str) -> None:
        """The document is complete, or gone: tell at once."""
        with self._news:
            self._settler.forget(uri)
            self._put(uri)

    def moving(self, uri: str) -> None:
        """Something happens to the document, and nobody promises to tell when it ends."""
        with self._news:
            if uri not in self._changed:
                if len(self._settler) >= self._capacity:
                    self._lose(self._root)
                else:
                    self._settler.note(uri)

    def lost(self, prefix: str) -> None:
        """Only a listing of `prefix` can tell what happened there."""
        with self._news:
            self._lose(prefix)

    def failed(self, error: DropdexError) -> None:
        """Watching has ended; whoever takes next learns why."""
        with self._news:
            self._error = error
            self._news.notify()

    def take(self, limit: int, timeout: float) -> tuple[list[str], list[str]]:
        """Changed uris, `limit` at the most, and lost prefixes; waits until there are any."""
        with self._news:
            self._news.wait_for(lambda: self._changed or self._lost or self._error, timeout)
            if self._error:
                raise self._error
            uris = list(itertools.islice(self._changed, limit))
            for uri in uris:
                del self._changed[uri]
            lost, self._lost = list(self._lost), {}
            return uris, lost

    def settle(self, look: Callable[[str], tuple[int, int] | None], now: float) -> None:
        """Look at the documents in motion, not too often, and tell those that have come to rest."""
        with self._news:
            if not len(self._settler) or now - self._settled_at < self._settle_every:
                return
            self._settled_at = now
            moving = self._settler.moving()
        seen = [(uri, look(uri)) for uri in moving]
        with self._news:
            for uri, status in seen:
                if status is None:
                    self._settler.forget(uri)
                elif self._settler.tracks(uri):
                    self._settler.observe(uri, *status, now)
            for uri in self._settler.due(now):
                self._put(uri)

    def _put(self, uri: str) -> None:
        if len(self._changed) >= self._capacity and uri not in self._changed:
            self._lose(self._root)
            return
        self._changed[uri] = None
        self._news.notify()

    def _lose(self, prefix: str) -> None:
        self._lost[prefix] = None
        self._news.notify()


def _below(path: bytes) -> bytes:
    """What every path below this one starts with."""
    return path.rstrip(b"/") + b"/"


# Kernel events ---------------------------------------------------------------------------------------------------

_IN = InotifyConstants
_COMPLETE = _IN.IN_CLOSE_WRITE | _IN.IN_MOVED_TO | _IN.IN_MOVED_FROM | _IN.IN_DELETE
_MASK = Mask(_COMPLETE | _IN.IN_CREATE | _IN.IN_MODIFY | _IN.IN_ATTRIB | _IN.IN_ONLYDIR | _IN.IN_DONT_FOLLOW | _IN.IN_EXCL_UNLINK)

_LIMITS = {
    errno.ENOSPC: ("fs.inotify.max_user_watches", 1_048_576),
    errno.EMFILE: ("fs.inotify.max_user_instances", 1024),
}


class _Folder(NamedTuple):
    """A watched folder: where it lies now, its uri with a slash at the end, and the callback that watches it."""

    path: bytes
    uri: str
    callback: CallbackId


@contextmanager
def watch_kernel(path: bytes, root: str, ignore: Ignore, inbox: Inbox) -> Iterator[None]:
    """Watch the tree below `path` by inotify. On entering, all of it is watched."""
    try:
        descriptor = InotifyFD()
    except OSError as error:
        raise _limit_reached(error) from error
    descriptor.start()
    tree = _Tree(descriptor, path, root, ignore, inbox)
    try:
        tree.arm()
        yield
    finally:
        tree.close()
        descriptor.stop()
        descriptor.join()


def _limit_reached(error: OSError) -> DropdexError:
    if error.errno not in _LIMITS:
        return Unavailable(f"inotify does not work here: {error.strerror}", hint="watch by polling: DROPDEX_POLLING=true")
    name, value = _LIMITS[error.errno]
    return ConfigurationError(
        f"the kernel's limit {name} is reached, so not every folder can be watched",
        hint=f"sysctl {name}={value}, or watch by polling: DROPDEX_POLLING=true",
    )


class _Tree:
    """Keeps every folder of the tree watched, and turns kernel events into what the inbox wants to know.

    Always watch a folder first and list it then: whatever happens in between is told twice, and never missed.
    """

    def __init__(self, descriptor: InotifyFD, path: bytes, root: str, ignore: Ignore, inbox: Inbox) -> None:
        self._descriptor = descriptor
        self._path = path
        self._root = root
        self._ignore = ignore
        self._inbox = inbox
        self._lock = threading.Lock()
        self._closed = False
        self._ids = itertools.count()
        self._folders: dict[WatchDescriptor, _Folder] = {}
        self._denied: set[bytes] = set()

    def arm(self) -> None:
        with self._lock:
            self._adopt(self._path, self._root, _tell_nobody)

    def close(self) -> None:
        with self._lock:
            self._closed = True

    def on_event(self, event: InotifyEvent) -> None:
        """Called by watchdog's thread, which must not die: an error is handed to the reader."""
        try:
            with self._lock:
                self._handle(event)
        except DropdexError as error:
            self._inbox.failed(error)
        except OSError as error:
            self._inbox.failed(Unavailable(f"watching ended: {error}"))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            self._folders.pop(wd, None)

    def on_queue_overflow(self) -> None:
        """New folders may be among the lost events, so every watch is taken anew."""
        log.warning("kernel queue overflowed", extra={"action": "watch_overflow", "root": self._root})
        try:
            with self._lock:
                self._drop(self._path)
                self._adopt(self._path, self._root, _tell_nobody)
        except DropdexError as error:
            self._inbox.failed(error)
        self._inbox.lost(self._root)

    def _handle(self, event: InotifyEvent) -> None:
        folder = self._folders.get(event.wd)
        name, mask = event.name, event.mask
        if folder is None or not name or self._closed or self._ignore.name(name):
            return
        uri = folder.uri + name_to_text(name)
        if mask & _IN.IN_ISDIR:
            self._handle_folder(_below(folder.path) + name, uri + "/", mask)
        elif mask & _COMPLETE:
            self._inbox.changed(uri)
        else:
            self._inbox.moving(uri)

    def _handle_folder(self, path: bytes, uri: str, mask: int) -> None:
        """A folder moved away takes documents along whose names only the ledger knows; one moved in brings complete files."""
        if mask & _IN.IN_MOVED_FROM:
            self._drop(path)
            self._inbox.lost(uri)
        elif mask & _IN.IN_MOVED_TO:
            self._adopt(path, uri, self._inbox.changed)
        elif mask & _IN.IN_CREATE or (mask & _IN.IN_ATTRIB and path in self._denied):
            self._adopt(path, uri, self._inbox.moving)

    def _adopt(self, path: bytes, uri: str, tell: Callable[[str], None]) -> None:
        """Watch a folder and all below it, and tell of the files found there."""
        stack = [(path, uri)]
        while stack:
            path, uri = stack.pop()
            try:
                self._watch(path, uri)
                with os.scandir(path) as entries:
                    for entry in entries:
                        if self._ignore.name(entry.name):
                            continue
                        below = uri + name_to_text(entry.name)
                        if entry.is_dir(follow_symlinks=False):
                            stack.append((entry.path, below + "/"))
                        elif entry.is_file(follow_symlinks=False):
                            tell(below)
            except PermissionError:
                self._denied.add(path)
                log.warning("folder cannot be watched", extra={"action": "watch_denied", "folder": uri})
            except OSError as error:
                if error.errno in _LIMITS:
                    raise _limit_reached(error) from error
                self._inbox.lost(uri)

    def _watch(self, path: bytes, uri: str) -> None:
        """A folder that is watched already, under an older name, gets its new one."""
        callback = CallbackId(next(self._ids))
        wd = self._descriptor.add_callback(path, _MASK, self, callback)
        before = self._folders.pop(wd, None)
        if before is not None:
            self._descriptor.remove_callbacks([(wd, before.callback)])
        if wd < 0:  # watchdog raises for every error but this one
            self._descriptor.remove_callbacks([(wd, callback)])
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._denied.discard(path)
        self._folders[wd] = _Folder(path, uri, callback)

    def _drop(self, path: bytes) -> None:
        """End the watches of a folder and of all below it."""
        below = _below(path)
        gone = [(wd, folder.callback) for wd, folder in self._folders.items() if folder.path == path or folder.path.startswith(below)]
        for wd, _ in gone:
            del self._folders[wd]
        with suppress(OSError):
            self._descriptor.remove_callbacks(gone)


def _tell_nobody(_: str) -> None:
    """The first listing follows; until then nobody needs to hear of files that were there before."""


# Polling ---------------------------------------------------------------------------------------------------------


@contextmanager
def watch_polling(path: bytes, root: str, ignore: Ignore, inbox: Inbox, interval: float) -> Iterator[None]:
    """Compare snapshots of the tree below `path` every `interval` seconds. On entering, the first one is taken."""

    def entries(folder: str | None) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as found:
            yield from [entry for entry in found if not ignore.name(os.fsencode(entry.name)) and not entry.is_symlink()]

    observer = PollingObserverVFS(os.lstat, entries, polling_interval=interval)
    observer.schedule(_Differences(path, root, inbox), os.fsdecode(path), recursive=True)
    try:
        observer.start()
    except OSError as error:
        raise Unavailable(f"the watched folder cannot be polled: {error.strerror}") from error
    try:
        yield
    finally:
        observer.stop()
        observer.join()


class _Differences(FileSystemEventHandler):
    """Polling tells every file below a folder that moved or went, so only files matter; none is known to be complete."""

    def __init__(self, path: bytes, root: str, inbox: Inbox) -> None:
        self._below = _below(path)
        self._root = root
        self._inbox = inbox

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory:
            return
        if event.event_type in ("deleted", "moved"):
            self._inbox.changed(self._uri(event.src_path))
        if event.event_type != "deleted":
            self._inbox.moving(self._uri(event.dest_path or event.src_path))

    def _uri(self, path: str | bytes) -> str:
        return self._root + name_to_text(os.fsencode(path).removeprefix(self._below))
