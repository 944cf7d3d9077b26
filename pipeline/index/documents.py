"""Documents as the index knows them: facts alone, facts with content, and facts with the place of their rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.base.model import Passage

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What one look found out. `stamp` as in the ledger; `modified_at` in seconds since the epoch, `size` in bytes."""

    uri: str
    version: str
    content_hash: str
    stamp: int
    size: int
    media_type: str
    modified_at: float


@dataclass(frozen=True, slots=True)
class IndexedDocument(DocumentFacts):
    """A document with everything a segment stores of it: one vector per passage, of unit length."""

    passages: tuple[Passage, ...] = field(repr=False)
    vectors: Vectors = field(repr=False, compare=False)

    @classmethod
    def of(cls, facts: DocumentFacts, passages: tuple[Passage, ...], vectors: Vectors) -> IndexedDocument:
        return cls(
            facts.uri,
            facts.version,
            facts.content_hash,
            facts.stamp,
            facts.size,
            facts.media_type,
            facts.modified_at,
            passages,
            vectors,
        )


@dataclass(frozen=True, slots=True)
class StoredDocument(DocumentFacts):
    """A document in a segment: its passages are the rows `first_row` to `first_row + rows - 1` of it."""

    first_row: int
    rows: int
    segment: str

    @property
    def end_row(self) -> int:
        return self.first_row + self.rows
