"""Bytes to text. No document can take the process, or another document, down with it.

Plain text is decoded in place. Everything else goes, alone, to a child process that is killed when it takes too long and
replaced when it dies. Each child belongs to one thread of ours, which starts it, speaks to it and buries it; the kernel
kills a child whose thread is gone. Not multiprocessing: its children import the parent's main module again, and its
parent unpickles whatever a child sends, which is remote code once a parser has been taken over.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Final

from pipeline.base.errors import DocumentError, ExtractorDied, Unavailable
from pipeline.base.model import Content
from pipeline.text import kinds, protocol

log = logging.getLogger(__name__)

CHILD: Final = (sys.executable, "-P", "-m", "pipeline.text.child")

_START_SECONDS: Final = 60.0
"""Seconds a child may take to import its parser: a third of a second, unless the machine is on its knees."""

_LAST_BREATH_SECONDS: Final = 5.0
"""Seconds between a child's last word and its end: a core of some gigabytes has to be unmapped."""

_DOCUMENTS_PER_CHILD: Final = 500
"""So that whatever a parser leaks stays bounded."""

_INHERITED: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
)
"""All that a child learns of our environment: no credentials, no broker."""

_SINGLE_THREADED: Final = {
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of the address space that is limited
    "RAYON_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
}


class Extractor:
    """Reads documents. Safe to share between threads; starts its first child with the first document that needs one."""

    def __init__(self, processes: int, seconds: float, memory_bytes: int, max_chars: int, *, command: Sequence[str] = CHILD) -> None:
        self._processes = processes
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._max_chars = max_chars
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._mine = threading.local()
        self._children: set[_Child] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def extract(self, content: Content) -> str:
        """The text of one document. Raises DocumentError, ExtractorDied."""
        (outcome,) = self.extract_many([content])
        if isinstance(outcome, DocumentError):
            raise outcome
        return outcome

    def extract_many(self, contents: Sequence[Content]) -> list[str | DocumentError]:
        """The text of each document, or why it has none, in the order given. Raises Unavailable once closed."""
        begun = [self._begin(content) for content in contents]
        try:
            return [part.result() if isinstance(part, Future) else part for part in begun]
        except CancelledError as error:
            raise Unavailable("the extractor was closed while it worked") from error

    def close(self) -> None:
        """Kill the children, give up what is being read, remove the scratch folder."""
        with self._lock:
            pool, self._pool = self._pool, None
            folder, self._folder = self._folder, None
            children = tuple(self._children)
        if pool is None or folder is None:
            return
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.kill()
        pool.shutdown(wait=True)
        for child in tuple(self._children):
            self._bury(child)
        folder.cleanup()

    def _begin(self, content: Content) -> Future[str | DocumentError] | str | DocumentError:
        try:
            media_type = kinds.recognise(content)
            if media_type == kinds.PLAIN:
                return self._checked(kinds.decode(content.data))
            data = kinds.decode(content.data).encode() if media_type == kinds.HTML else content.data
        except DocumentError as error:
            return error
        return self._submit(media_type, data)

    def _submit(self, media_type: str, data: bytes) -> Future[str | DocumentError]:
        with self._lock:
            if self._pool is None or self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="dropdex-extract-")
                self._pool = ThreadPoolExecutor(self._processes, thread_name_prefix="extract")
            return self._pool.submit(self._parse, media_type, data, self._folder.name)

    def _parse(self, media_type: str, data: bytes, folder: str) -> str | DocumentError:
        child = self._child(folder)
        try:
            return self._checked(child.parse(media_type, data, self._seconds))
        except ExtractorDied as error:
            if self._pool is None:
                raise Unavailable("the extractor was closed while it read a document") from error
            return error
        except DocumentError as error:
            return error
        finally:
            if child.spent:
                self._bury(child)

    def _checked(self, text: str) -> str:
        if not text or text.isspace():
            raise DocumentError("the document has no text", hint="scanned pages and images are not read")
        if len(text) > self._max_chars:
            raise DocumentError(protocol.too_long(len(text), self._max_chars))
        return text

    def _child(self, folder: str) -> _Child:
        """The child of this thread; a new one where there is none, or where the system killed the old one while it was idle."""
        child: _Child | None = getattr(self._mine, "child", None)
        if child is not None and child.spent:
            self._bury(child)
            child = None
        if child is None:
            child = self._mine.child = _Child(self._command, self._memory_bytes, self._max_chars, folder)
            with self._lock:
                self._children.add(child)
            self._await_ready(child)
        return child

    def _await_ready(self, child: _Child) -> None:
        try:
            child.await_ready()
        except ExtractorDied as error:
            self._bury(child)
            raise Unavailable(f"no extraction process can be started: {error}", hint=error.hint) from error

    def _bury(self, child: _Child) -> None:
        child.bury()
        with self._lock:
            self._children.discard(child)


class _Child:
    """One child process and the socket to it."""

    def __init__(self, command: Sequence[str], memory_bytes: int, max_chars: int, folder: str) -> None:
        self._memory_bytes = memory_bytes
        self._reply_bytes = 4 * max_chars + 1024
        self._left = _DOCUMENTS_PER_CHILD
        self._timed_out = False
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(memory_bytes), str(max_chars)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
            )

    @property
    def spent(self) -> bool:
        """Nothing more can be asked of it: it is dead, or has done its share."""
        return self._left <= 0 or self._timed_out or self._process.poll() is not None

    def await_ready(self) -> None:
        with self._deadline(_START_SECONDS):
            self._receive()

    def parse(self, media_type: str, data: bytes, seconds: float) -> str:
        """The text of one document. Raises DocumentError, and ExtractorDied where the child is no more."""
        self._left -= 1
        with self._deadline(seconds):
            try:
                self._connection.send_bytes(media_type.encode())
                self._connection.send_bytes(data)
            except OSError as error:
                raise self._death(seconds) from error
            status, reply = self._receive(seconds), self._receive(seconds)
        text = reply.decode("utf-8", "replace")
        if status != protocol.TEXT:
            raise DocumentError(text)
        return text

    def kill(self) -> None:
        self._process.kill()

    def bury(self) -> None:
        self._left = 0
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _receive(self, seconds: float = _START_SECONDS) -> bytes:
        try:
            return self._connection.recv_bytes(self._reply_bytes)
        except (EOFError, OSError) as error:
            raise self._death(seconds) from error

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # or it might still kill the child while that reads the next document

    def _expire(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _exit_status(self) -> int:
        """It hung up, so it is about to end by itself, and how it does is what we want to know."""
        try:
            return self._process.wait(_LAST_BREATH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _death(self, seconds: float) -> ExtractorDied:
        status = self._exit_status()
        log.warning("extraction process died", extra={"action": "extractor_died", "status": status, "timed_out": self._timed_out})
        if self._timed_out:
            return ExtractorDied(f"reading the document took longer than {seconds:g} s", hint="raise DROPDEX_EXTRACT_SECONDS")
        if status in {protocol.OUT_OF_MEMORY, -signal.SIGABRT}:
            size = f"{self._memory_bytes // 2**20:,} MiB"
            return ExtractorDied(f"reading the document needs more than {size} of memory", hint="raise DROPDEX_EXTRACT_MEMORY_BYTES")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return ExtractorDied(f"the process that read the document ended with {name}")


def _environment(folder: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)  # noqa: PTH100 (an empty entry is the working directory)
    return {**inherited, **_SINGLE_THREADED, "PYTHONPATH": path, "HOME": folder, "TMPDIR": folder}
