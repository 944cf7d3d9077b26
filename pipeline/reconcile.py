"""Listing × ledger → events. The safety net and the backfill: a merge-join of two ascending streams.

Memory grows with neither side. No removal is handed out before the listing has ended well, because half a listing
looks like a mass removal. Knows no source and no ledger: whoever calls brings both streams, in byte order of the uri.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from pipeline.errors import DropdexError, TooManyRemovals
from pipeline.model import DocumentEvent, Entry, Listed, Origin, State

__all__ = ["ALWAYS_ALLOWED", "DUE", "Difference", "differences", "reconcile"]

ALWAYS_ALLOWED = 10
"""Removals that are never refused: in a small corpus a share says nothing (one of two files is 50 %)."""

DUE = "due"
"""The wish for a reconcile that the schedule leaves in the ledger, perhaps before the relay was started: a listing under way
answers it. Whoever asks by hand asks about what is there now, and that listing may be past it."""

SPOOL_BYTES = 4 * 2**20
"""Removals that wait for the end of the listing stay in memory up to here, then go to a temporary file."""

T = TypeVar("T", Listed, Entry)


class Difference(NamedTuple):
    """The event that a listed or unlisted document calls for; `removed` where the listing misses it."""

    event: DocumentEvent
    removed: bool


def differences(listing: Iterable[Listed], known: Iterable[Entry]) -> Iterator[Difference]:
    """What the listing says otherwise than the ledger. Equal versions are silent, for dead letters too."""
    lines, entries = _ascending(listing, "listing"), _ascending(known, "ledger")
    line, entry = next(lines, None), next(entries, None)
    while line is not None or entry is not None:
        if entry is None or (line is not None and line.uri < entry.uri):
            assert line is not None
            yield _changed(line)
            line = next(lines, None)
        elif line is None or entry.uri < line.uri:
            if entry.state is not State.REMOVED:
                yield Difference(DocumentEvent(entry.uri, Origin.BACKFILL), removed=True)
            entry = next(entries, None)
        else:
            if entry.state is State.REMOVED or entry.version != line.version:
                yield _changed(line)
            line, entry = next(lines, None), next(entries, None)


def reconcile(listing: Iterable[Listed], known: Iterable[Entry], *, guard: float, allow_removals: bool = False) -> Iterator[DocumentEvent]:
    """Events for every difference: changes while the listing runs, removals after it has ended.

    Raises TooManyRemovals, after the changes and instead of the removals, where these are more than the share `guard`
    of the known documents (and more than ALWAYS_ALLOWED) and `allow_removals` is off.
    """
    counted = _Counted(known)
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, mode="w+", encoding="utf-8", newline="\n") as spool:
        removals = 0
        for event, removed in differences(listing, counted):
            if removed:
                removals += 1
                spool.write(json.dumps(event.uri) + "\n")
            else:
                yield event
        if not allow_removals and removals > max(ALWAYS_ALLOWED, guard * counted.present):
            raise TooManyRemovals(removals, counted.present)
        spool.seek(0)
        for text in spool:
            yield DocumentEvent(json.loads(text), Origin.BACKFILL)


def _changed(line: Listed) -> Difference:
    return Difference(DocumentEvent(line.uri, Origin.BACKFILL, line.size), removed=False)


def _ascending(items: Iterable[T], side: str) -> Iterator[T]:
    """The same items; raises where one is not above the one before. Python compares text as UTF-8 compares its bytes."""
    last: str | None = None
    for item in items:
        if last is not None and item.uri <= last:
            raise DropdexError(f"the {side} is out of order: {item.uri!r} came after {last!r}, so no difference can be trusted")
        last = item.uri
        yield item


class _Counted:
    """Counts the documents that are there, on their way through."""

    def __init__(self, known: Iterable[Entry]) -> None:
        self._known = known
        self.present = 0

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._known:
            self.present += entry.state is not State.REMOVED
            yield entry
