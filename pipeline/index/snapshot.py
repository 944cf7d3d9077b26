"""An opened generation: its segments, less what was deleted. Never changes, so a running query is never disturbed.

A snapshot shares the segments that the previous one has open. What nobody holds any more is closed with the last
reference to it, so there is nothing to close and nothing to forget.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Final, Self

import numpy as np

from pipeline.base.errors import ConfigurationError
from pipeline.base.model import Passage
from pipeline.index.ann import Alive
from pipeline.index.deletes import Rows
from pipeline.index.documents import IndexedDocument, StoredDocument, Vectors
from pipeline.index.home import Home
from pipeline.index.manifest import FileRef, Manifest, SegmentRef
from pipeline.index.segment import Segment

VERIFY_BYTES: Final = 64 * 2**20
"""What one opening compares with its digests, the smallest files first; the rest is opened by size alone. Hashing a gigabyte
takes a second in which nothing new is searchable. What was just published is small, and was hashed as a whole before that."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that answers a query. `score` is the cosine, `start` and `end` are character offsets into the document's text."""

    uri: str
    text: str
    start: int
    end: int
    score: float
    media_type: str
    modified_at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents may answer. Empty strings and zero let everything pass."""

    prefix: str = ""
    media_type: str = ""
    changed_since: float = 0.0


EVERYTHING: Final = Filter()


@dataclass(frozen=True)
class View:
    """One segment as one generation sees it."""

    ref: SegmentRef
    segment: Segment
    dead: Rows | None = field(repr=False)

    def is_live(self, document: StoredDocument) -> bool:
        return self.dead is None or not self.dead[document.first_row]

    def documents(self) -> Iterator[StoredDocument]:
        return filter(self.is_live, self.segment.documents())

    @cached_property
    def live(self) -> Alive | None:
        return None if self.dead is None else ~self.dead

    def passing(self, wanted: Filter) -> Alive | None:
        """The live rows that pass the filter; None: all rows."""
        if wanted == EVERYTHING:
            return self.live
        passing = np.ones(self.segment.rows, np.bool_) if self.live is None else self.live.copy()
        if wanted.prefix:
            first, end = self.segment.rows_under(wanted.prefix)
            passing[:first] = False
            passing[end:] = False
        if wanted.media_type or wanted.changed_since:
            facets = self.segment.facets
            matching = facets.modified_at >= wanted.changed_since
            if wanted.media_type:
                matching &= (facets.media_type == wanted.media_type).astype(np.bool_)
            passing &= np.repeat(matching, facets.rows)
        return passing


class Snapshot:
    """See the module. Safe to search from several threads at once."""

    def __init__(self, manifest: Manifest, views: Sequence[View]) -> None:
        self.manifest = manifest
        self.views = tuple(views)
        self._by_id = {view.segment.id: view for view in self.views}

    @classmethod
    def open(cls, home: Home, manifest: Manifest, previous: Snapshot | None = None, *, verify_bytes: int = VERIFY_BYTES) -> Self:
        """Open what `previous` has not open already. Of that, `verify_bytes` are compared with their digests first, small files first.

        Raises CorruptIndex where anything is not what the manifest says.
        """
        opened = previous._by_id if previous else {}
        new = {name: file for ref in manifest.segments if ref.id not in opened for name, file in ref.files.items()}
        verified = smallest(new, verify_bytes)
        return cls(manifest, [_view(home, ref, opened.get(ref.id), verified) for ref in manifest.segments])

    @property
    def generation(self) -> int:
        return self.manifest.generation

    # Searching ----------------------------------------------------------------------------------------------------

    def search(self, vectors: Vectors, k: int, wanted: Filter = EVERYTHING) -> list[list[Hit]]:
        """The best `k` live passages per query vector, best first."""
        queries = np.ascontiguousarray(np.atleast_2d(vectors), dtype=np.float32)
        if not self.views or k < 1:
            return [[] for _ in queries]
        if queries.shape[1] != self.manifest.dimension:
            raise ConfigurationError(
                f"a query has {queries.shape[1]} dimensions, the index {self.manifest.dimension}",
                hint="embed queries with the model that the index was built with",
            )
        scores, places, rows = self._candidates(queries, k, wanted)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = [np.take_along_axis(table, order, 1).tolist() for table in (scores, places, rows)]
        return self._hits([[t for t in zip(*answer, strict=True) if t[2] >= 0] for answer in zip(*best, strict=True)])

    def _candidates(self, queries: Vectors, k: int, wanted: Filter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, positions of the segment and rows of the best k of every segment, side by side."""
        scores, places, rows = [], [], []
        for place, view in enumerate(self.views):
            found = view.segment.vectors.search(queries, k, view.passing(wanted))
            scores.append(np.where(found[1] < 0, -np.inf, found[0]))
            rows.append(found[1])
            places.append(np.full_like(found[1], place))
        return np.concatenate(scores, 1), np.concatenate(places, 1), np.concatenate(rows, 1)

    def _hits(self, answers: Sequence[Sequence[tuple[float, int, int]]]) -> list[list[Hit]]:
        wanted: dict[int, set[int]] = {}
        for _, place, row in (found for answer in answers for found in answer):
            wanted.setdefault(place, set()).add(row)
        held = {place: self.views[place].segment.holding(sorted(rows)) for place, rows in wanted.items()}
        return [[self._hit(score, *held[place][row]) for score, place, row in answer] for answer in answers]

    def _hit(self, score: float, document: StoredDocument, passage: Passage) -> Hit:
        return Hit(
            document.uri,
            passage.text,
            passage.start,
            passage.end,
            score,
            document.media_type,
            document.modified_at,
            self.generation,
        )

    # Documents ----------------------------------------------------------------------------------------------------

    def document(self, uri: str) -> StoredDocument | None:
        """The live document with this uri, and the place of its rows."""
        return self.find([uri]).get(uri)

    def find(self, uris: Iterable[str]) -> dict[str, StoredDocument]:
        """The live documents with these uris."""
        wanted = set(uris)
        found: dict[str, StoredDocument] = {}
        for view in self.views:
            left = wanted - found.keys()
            # Asking a small segment for many uris costs more than reading through it.
            known = view.documents() if view.ref.documents <= len(left) else filter(view.is_live, view.segment.by_uri(sorted(left)))
            found.update({document.uri: document for document in known if document.uri in left})
        return found

    def by_content(self, content_hash: str) -> StoredDocument | None:
        """Any document with this content, live or not: its rows are as good."""
        return self.find_contents([content_hash]).get(content_hash)

    def find_contents(self, hashes: Iterable[str]) -> dict[str, StoredDocument]:
        wanted = set(hashes)
        found: dict[str, StoredDocument] = {}
        for view in self.views:
            left = sorted(wanted - found.keys())
            found.update({document.content_hash: document for document in view.segment.by_content(left)})
        return found

    def documents(self) -> Iterator[StoredDocument]:
        """Every live document, in ascending order of the uri. Memory does not grow with the index."""
        return heapq.merge(*(view.documents() for view in self.views), key=lambda document: document.uri)

    def content(self, document: StoredDocument) -> IndexedDocument:
        """Passages and vectors of a document of this snapshot."""
        return self._by_id[document.segment].segment.content(document)


def smallest(files: Mapping[str, FileRef], most: int) -> set[str]:
    """Names of the smallest files that have `most` bytes together."""
    by_size = sorted(files, key=lambda name: files[name].size)
    totals = accumulate(files[name].size for name in by_size)
    return {name for name, total in zip(by_size, totals, strict=True) if total <= most}


def open_segment(home: Home, ref: SegmentRef, *, verify_bytes: int = VERIFY_BYTES) -> Segment:
    """Raises CorruptIndex where the files are not what `ref` says."""
    return _segment(home, ref, smallest(ref.files, verify_bytes))


def _segment(home: Home, ref: SegmentRef, verified: Collection[str]) -> Segment:
    index, passages = (home.open_file(name, file, verify=name in verified) for name, file in ref.files.items())
    return Segment(ref, index, passages)


def _view(home: Home, ref: SegmentRef, known: View | None, verified: Collection[str]) -> View:
    if known is None:
        return View(ref, _segment(home, ref, verified), home.dead_rows(ref))
    return known if known.ref == ref else View(ref, known.segment, home.dead_rows(ref))
