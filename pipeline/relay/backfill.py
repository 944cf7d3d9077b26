"""One reconcile under way: listing × ledger → events, in a thread of its own behind a bounded queue.

A long listing never stands before a live event, and a slow pipeline never makes the listing grow in memory. What a
relay noticed and did not live to hand over is told first: if such a document is gone, no listing shows it.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator, Sequence
from threading import Event, Thread

from redis.exceptions import RedisError

from pipeline.base.errors import DropdexError, Unavailable
from pipeline.base.model import DocumentEvent, Origin
from pipeline.ledger.ledger import Ledger
from pipeline.relay.reconcile import reconcile
from pipeline.sources import Source

log = logging.getLogger(__name__)

AHEAD = 10_000
"""Differences found ahead of their hand-over."""


def differences(source: Source, ledger: Ledger, guard: float, *, prefix: str = "", allow_removals: bool = False) -> Iterator[DocumentEvent]:
    """Events for everything below `prefix` in which one source's listing and the ledger differ."""
    known = ledger.known(prefix or source.root)
    return reconcile(source.list(prefix), known, guard=guard, allow_removals=allow_removals)


class Backfill:
    """Differences of the sources that hold `prefix` ("": all of them), to be taken in batches."""

    def __init__(self, sources: Sequence[Source], ledger: Ledger, guard: float, *, prefix: str = "", allow_removals: bool = False) -> None:
        self._sources = [source for source in sources if prefix.startswith(source.root) or not prefix]
        self._ledger, self._guard, self.prefix, self._allow = ledger, guard, prefix, allow_removals
        self._queue: queue.Queue[DocumentEvent] = queue.Queue(maxsize=AHEAD)
        self._cancelled = Event()
        self.began = time.monotonic()
        self.found = 0
        self.error: DropdexError | None = None
        self._thread = Thread(target=self._run, name="reconcile", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for source in self._sources:
                for uri in self._ledger.unanswered(self.prefix or source.root):
                    self._put(DocumentEvent(uri, Origin.BACKFILL))
                for event in differences(source, self._ledger, self._guard, prefix=self.prefix, allow_removals=self._allow):
                    self.found += 1
                    if not self._put(event):
                        return
        except DropdexError as error:
            self.error = error
        except RedisError as error:
            self.error = Unavailable(f"redis did not answer during a reconcile: {error}")
        except Exception as error:  # a listing that broke must not pass for one that ended
            log.exception("reconcile broke", extra={"action": "reconcile"})
            self.error = Unavailable(f"a reconcile broke: {error!r}")

    def _put(self, event: DocumentEvent) -> bool:
        while not self._cancelled.is_set():
            try:
                self._queue.put(event, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def take(self, most: int, most_bytes: int) -> list[DocumentEvent]:
        """At the most `most` differences found so far, or about `most_bytes` of documents."""
        taken: list[DocumentEvent] = []
        total = 0
        while len(taken) < most and total < most_bytes:
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                break
            taken.append(event)
            total += event.size or 0
        return taken

    @property
    def listing(self) -> bool:
        """Whether more differences may be found."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Differences that were found and not taken."""
        return self._queue.qsize()

    @property
    def done(self) -> bool:
        """The listing has ended, for better or worse, and every difference was taken."""
        return not self.listing and not self.waiting

    def cancel(self) -> None:
        self._cancelled.set()
