"""Publishes a draft: files first, CURRENT last. A reader sees the old generation or the new one, and nothing between.

Nothing is believed: each file is read back and compared with its digest, and the new segments must find their own
vectors, before the pointer moves. Publishing the same draft again changes nothing, and a crash anywhere in here leaves
nothing but files that nobody names: draft again, they are collected later.
"""

from __future__ import annotations

import logging
from typing import Final

import numpy as np

from pipeline.base.errors import Conflict, CorruptIndex
from pipeline.index.draft import Draft
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest, SegmentRef
from pipeline.index.segment import Segment
from pipeline.index.snapshot import open_segment

log = logging.getLogger(__name__)

SAMPLE: Final = 16
"""Vectors per new segment that must find themselves."""
TOLERANCE: Final = 1e-3
"""Below the vector's own score; identical vectors tie, and float16 rounds."""
FOUND_IN_GRAPH: Final = 0.75
"""Share that must be found where search is approximate: a graph may miss some, a broken file finds nothing."""
NO_LIMIT: Final = 2**63


class Swap:
    """Moves CURRENT of `home` to a draft."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def publish(self, draft: Draft) -> Manifest:
        """Raises Conflict where the changes must be drafted again, CorruptIndex where the draft must not be served."""
        for name, content in draft.files:
            if isinstance(content, bytes) or content.exists():
                self._home.blobs.put(name, content)
            elif not any(self._home.blobs.list(name)):  # else an earlier attempt moved it there
                raise Conflict(f"the draft's {name} is gone", hint="draft the changes again")
        written = {name for name, _ in draft.files}
        for ref in draft.manifest.segments:
            if written & ref.files.keys():
                check(open_segment(self._home, ref, verify_bytes=NO_LIMIT), ref)
            if ref.deletes and ref.deletes.name in written:
                self._home.dead_rows(ref)
        manifest = self._home.commit(draft)
        log.info("generation published", extra={"action": "published", "generation": manifest.generation, "note": manifest.note})
        return manifest


def check(segment: Segment, ref: SegmentRef) -> None:
    """The canary: stored vectors, spread over the segment, must find themselves or their equals. Raises CorruptIndex."""
    rows = np.unique(np.linspace(0, ref.rows - 1, num=min(SAMPLE, ref.rows), dtype=np.int64))
    vectors = segment.vectors.vectors_of(rows)
    scores, found = segment.vectors.search(vectors, 1)
    own = np.einsum("ij,ij->i", vectors, vectors)
    share = float(((found[:, 0] == rows) | (scores[:, 0] >= own - TOLERANCE)).mean())
    if share < (1.0 if ref.index_type == "exact" else FOUND_IN_GRAPH):
        raise CorruptIndex(f"segment {ref.id} finds {share:.0%} of its own vectors", hint="it is not published; its documents stay pending")
    if len(segment.holding(rows.tolist())) != len(rows):
        raise CorruptIndex(f"segment {ref.id} has vectors without passages", hint="it is not published; its documents stay pending")
