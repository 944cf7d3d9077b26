"""Carrying a merge through: which row went where, and what of it died while it ran.

A merge takes minutes and publications happen meanwhile. Its new segment stays right if every row that died in a
source since then dies in it too. The opposite, a row that came back to life (a rollback), cannot be carried over, and
neither can a source that somebody else has merged in the meantime: those documents live elsewhere now.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.index.deletes import Rows
from pipeline.index.documents import IndexedDocument
from pipeline.index.draft import Merged, MergedSource
from pipeline.index.snapshot import Snapshot, View


@dataclass
class Trace:
    """Written down while a merge streams by."""

    found: dict[str, MergedSource]
    rows: int = 0
    lengths: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, views: Sequence[View]) -> Trace:
        return cls({view.segment.id: MergedSource(dead_rows(view), np.full(view.ref.rows, -1, np.int32)) for view in views})

    def note(self, segment: str, first_row: int, rows: int) -> None:
        self.found[segment].moved[first_row : first_row + rows] = np.arange(self.rows, self.rows + rows)
        self.lengths.append(rows)
        self.rows += rows

    def sources(self) -> dict[str, MergedSource]:
        return self.found

    def owners(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which rows of the merged segment died while it was written, and where it belongs in the list of segments."""

    dead: Rows
    dead_documents: int
    place: int


def dead_rows(view: View) -> Rows:
    return np.zeros(view.ref.rows, np.bool_) if view.dead is None else view.dead


def merged_documents(views: Sequence[View], trace: Trace) -> Iterator[IndexedDocument]:
    """The live documents of all views in ascending order of the uri; `trace` notes where each came from."""
    streams = [zip(view.documents(), view.segment.contents(view.documents()), strict=True) for view in views]
    for stored, document in heapq.merge(*streams, key=lambda pair: pair[0].uri):
        trace.note(stored.segment, stored.first_row, stored.rows)
        yield document


def rebased(merged: Merged, now: Snapshot) -> Outcome | None:
    """What became of the merged rows in `now`. None where the merge has lost its point, or its ground."""
    views = {view.segment.id: view for view in now.views}
    present = [place for place, view in enumerate(now.views) if view.segment.id in merged.sources]
    if not present:
        return None
    dead = np.zeros(merged.ref.rows, np.bool_)
    for segment, source in merged.sources.items():
        # A source that is not listed any more lost its last row, or was merged by somebody else: either way not ours.
        dead_now = dead_rows(views[segment]) if segment in views else np.ones_like(source.dead)
        if (source.dead & ~dead_now).any():
            return None
        dead[source.moved[dead_now & ~source.dead]] = True
    return Outcome(dead, len(np.unique(merged.owners[dead])), present[0])
