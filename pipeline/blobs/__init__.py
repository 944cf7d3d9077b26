"""Where the index lies: write-once names and one pointer that moves by compare-and-set.

Names are relative, with slashes ("segments/ab12/index.faiss"). A name is written once, and what `put` returned from is
on the disk: whoever reads a name finds all of it or nothing. Only a pointer is ever rewritten, with `replacing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

__all__ = ["ABSENT", "Blob", "BlobInfo", "BlobStore"]

ABSENT: Final = ""
"""As `replacing`: the name must not exist yet."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A small blob, whole, with the tag that a later `put(..., replacing=etag)` compares."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One line of a listing. `modified_at` in seconds since the epoch."""

    name: str
    size: int
    modified_at: float


class BlobStore(Protocol):
    """The seam between the index and the place it lies in (a folder, a bucket prefix)."""

    @property
    def url(self) -> str:
        """file:PATH or s3://bucket/prefix, as an operator would write it."""
        ...

    def get(self, name: str) -> Blob | None:
        """The whole blob, or None where there is none. Raises Unavailable."""
        ...

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        """Write `name`, atomically and (if `durable`) fsynced, its folder too; return its etag.

        A Path is consumed: it may be moved into place. With `replacing`, raise Conflict unless the name now has that
        etag (ABSENT: does not exist). Raises Unavailable, ConfigurationError (not writable, no conditional writes).
        """
        ...

    def fetch(self, name: str, *, digest: str = "") -> Path:
        """A local file with the blob's bytes, for memory-mapping. Stays readable while opened, even after `delete`.

        A store that copies verifies `digest` (hex sha256) while copying. Raises CorruptIndex where the name is missing.
        """
        ...

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Every blob whose name starts with `prefix`."""
        ...

    def delete(self, name: str) -> None:
        """Remove the blob; nothing happens where there is none."""
        ...
