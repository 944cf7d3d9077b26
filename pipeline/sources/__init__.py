"""Where documents come from. A source lists, reads and watches; it decides nothing about what is indexed.

Every method speaks in uris under `root`. Listings come in ascending order of the uri's UTF-8 bytes, so that
reconcile can merge them with the ledger in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Protocol

from pipeline.base.model import Content, Delivery, Listed, Overflow, Unchanged

__all__ = ["Source"]


class Source(Protocol):
    """The seam between the pipeline and a place where people drop files."""

    @property
    def root(self) -> str:
        """Prefix of every uri of this source; ends with a slash."""
        ...

    def check(self) -> None:
        """Raise ConfigurationError, with a hint, where the source cannot be used at all."""
        ...

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Every document below `prefix` (a uri that ends with a slash; "" is the root), in ascending byte order of its uri.

        Raises Unavailable where the root is missing: a missing root is not an empty folder. A prefix under which there
        is nothing is an empty listing. What cannot be listed raises at the latest at the end: an incomplete listing
        never ends quietly.
        """
        ...

    def read(self, uri: str, known_version: str = "") -> Content | Unchanged | None:
        """Look at one document. None: it is gone (or ignored). Unchanged: it still has `known_version`.

        Raises DocumentError (unreadable, too large), DocumentInMotion, Unavailable.
        """
        ...

    def watch(self, stop: Event) -> Iterator[Delivery | Overflow]:
        """Arm the watch, yield an empty Delivery once armed (now list), then deliveries until `stop` is set."""
        ...
