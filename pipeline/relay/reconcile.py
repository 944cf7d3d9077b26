"""Listing × ledger → events. The safety net and the backfill: a merge-join of two ascending streams.

Memory grows with neither side. No removal is handed out before the listing has ended well, because half a listing
looks like a mass removal. Knows no source and no ledger: whoever calls brings both streams, in byte order of the uri.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

from pipeline.base.errors import DropdexError, TooManyRemovals
from pipeline.base.model import DocumentEvent, Known, Listed, Origin

__all__ = ["ALWAYS_ALLOWED", "DUE", "Difference", "differences", "reconcile"]

ALWAYS_ALLOWED = 10
"""Removals that are never refused: in a small corpus a share says nothing (one of two files is 50 %)."""

DUE = "due"
"""The wish for a reconcile that the schedule leaves in the ledger, perhaps before the relay was started: a listing under way
answers it. Whoever asks by hand asks about what is there now, and that listing may be past it."""

SPOOL_BYTES = 4 * 2**20
"""Removals that wait for the end of the listing stay in memory up to here, then go to a temporary file."""

_END = "\U0010ffff"
"""Above every uri, as they begin with a scheme: where a stream has ended, the other one goes on alone."""


class Difference(NamedTuple):
    """The event that a listed or unlisted document calls for; `removed` where the listing misses it."""

    event: DocumentEvent
    removed: bool


def differences(listing: Iterable[Listed], known: Iterable[Known]) -> Iterator[Difference]:
    """What the listing says otherwise than the ledger. Equal versions are silent, for dead letters too.

    Raises DropdexError where a side is out of order. Python compares text as UTF-8 compares its bytes.
    """
    lines, entries = iter(listing), iter(known)
    no_line, no_entry = Listed(_END, "", 0), Known(_END, "")
    line, entry, last = next(lines, no_line), next(entries, no_entry), ""
    while (uri := min(line.uri, entry.uri)) != _END:
        if uri <= last:
            side = "listing" if line.uri == uri else "ledger"
            raise DropdexError(f"the {side} is out of order: {uri!r} came after {last!r}, so no difference can be trusted")
        last = uri
        listed, expected = line.uri == uri, entry.uri == uri
        if not listed:
            yield Difference(DocumentEvent(uri, Origin.BACKFILL), removed=True)
        elif not expected or entry.version != line.version:
            yield Difference(DocumentEvent(uri, Origin.BACKFILL, line.size), removed=False)
        if listed:
            line = next(lines, no_line)
        if expected:
            entry = next(entries, no_entry)


def reconcile(listing: Iterable[Listed], known: Iterable[Known], *, guard: float, allow_removals: bool = False) -> Iterator[DocumentEvent]:
    """Events for every difference: changes while the listing runs, removals after it has ended.

    Raises TooManyRemovals, after the changes and instead of the removals, where these are more than the share `guard`
    of the known documents (and more than ALWAYS_ALLOWED) and `allow_removals` is off.
    """
    counter = count()
    counted = (entry for entry, _ in zip(known, counter, strict=False))
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, mode="w+", encoding="utf-8", newline="\n") as spool:
        removals = 0
        for event, removed in differences(listing, counted):
            if removed:
                removals += 1
                spool.write(json.dumps(event.uri) + "\n")
            else:
                yield event
        documents = next(counter)
        if not allow_removals and removals > max(ALWAYS_ALLOWED, guard * documents):
            raise TooManyRemovals(removals, documents)
        spool.seek(0)
        for text in spool:
            yield DocumentEvent(json.loads(text), Origin.BACKFILL)
