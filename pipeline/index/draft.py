"""Changes that somebody wants in the index, and the generation that would contain them. Nothing in here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.index.deletes import Rows
from pipeline.index.documents import DocumentFacts, IndexedDocument
from pipeline.index.manifest import Manifest, SegmentRef
from pipeline.index.scratch import Scratch

WHATEVER_IS_THERE: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Add:
    """A document, in place of any earlier one with its uri. Without passages there is nothing to search: it is removed."""

    document: IndexedDocument

    @property
    def uri(self) -> str:
        return self.document.uri

    @property
    def stamp(self) -> int:
        return self.document.stamp


@dataclass(frozen=True, slots=True)
class Copy:
    """A document whose content is somewhere in the index (a rename, a copy, a touch) or added in the same draft."""

    document: DocumentFacts

    @property
    def uri(self) -> str:
        return self.document.uri

    @property
    def stamp(self) -> int:
        return self.document.stamp


@dataclass(frozen=True, slots=True)
class Remove:
    """No document at this uri any more, if what is there is older than `stamp`."""

    uri: str
    stamp: int = WHATEVER_IS_THERE


Change = Add | Copy | Remove


@dataclass(frozen=True, slots=True)
class MergedSource:
    """Where the rows of one merged segment went. `moved` is the new row of each row, or -1 where it was dead."""

    dead: Rows
    moved: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Merged:
    """A new segment and what it was made of, so that deletes which arrived meanwhile can be carried over."""

    ref: SegmentRef
    sources: Mapping[str, MergedSource]
    owners: npt.NDArray[np.int32]
    """Per new row, the number of its document."""
    note: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A generation that is not published yet. `files` go first, then the manifest, then the pointer."""

    manifest: Manifest
    files: tuple[tuple[str, Path | bytes], ...]
    replaces: str
    """Etag of the pointer that this was drafted upon."""
    missing: tuple[str, ...] = ()
    """Uris of copies whose content is nowhere in the index any more: embed them again."""
    merged: Merged | None = field(default=None, repr=False)
    scratch: Scratch | None = field(default=None, repr=False, compare=False)
    """Held so that the files outlive their writer."""


def newest(changes: Iterable[Change]) -> dict[str, Change]:
    """The change with the highest stamp per uri; the later one of two equals."""
    found: dict[str, Change] = {}
    for change in changes:
        if change.uri not in found or found[change.uri].stamp <= change.stamp:
            found[change.uri] = change
    return found
