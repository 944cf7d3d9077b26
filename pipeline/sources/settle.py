"""When has a file come to rest? Pure: the clock is an argument, and what a look at the file showed is one too.

For files of which nobody tells that they are complete (polling, writers that never close, hard links). A file that is
indexed while it grows costs an embedding of half a document, so both its size and its time must stand still first.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Settler"]


class _Rest(NamedTuple):
    seen: tuple[int, int] | None
    """Size and mtime at the last look; None before the first one."""
    since: float


_NEVER_SEEN = _Rest(None, 0.0)


class Settler:
    """Tracks files in motion until their size and mtime have rested for `settle_after` seconds."""

    def __init__(self, settle_after: float) -> None:
        self._settle_after = settle_after
        self._files: dict[str, _Rest] = {}

    def __len__(self) -> int:
        return len(self._files)

    def note(self, uri: str) -> None:
        """Something happened to the file; nobody has looked at it yet."""
        self._files.setdefault(uri, _NEVER_SEEN)

    def tracks(self, uri: str) -> bool:
        return uri in self._files

    def observe(self, uri: str, size: int, mtime: int, now: float) -> None:
        """A look showed this. Any difference to the look before starts the rest anew."""
        rest = self._files.get(uri)
        if rest is None or rest.seen != (size, mtime):
            self._files[uri] = _Rest((size, mtime), now)

    def forget(self, uri: str) -> None:
        self._files.pop(uri, None)

    def moving(self) -> list[str]:
        """The files to look at."""
        return list(self._files)

    def due(self, now: float) -> list[str]:
        """Files that have come to rest. Handed out once: they are tracked no longer."""
        due = [uri for uri, rest in self._files.items() if rest.seen is not None and now - rest.since >= self._settle_after]
        for uri in due:
            del self._files[uri]
        return due
