"""Drafts generations: what is published, and some changes, make what could be published next. Publishes nothing itself.

A draft costs what its changes cost and not what the index holds: one new segment, and a bitmap for each segment that
lost a document. It says which pointer it was drafted upon; whoever publishes it replaces exactly that one, or drafts again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.base.errors import ConfigurationError, Conflict
from pipeline.index import deletes
from pipeline.index.documents import IndexedDocument, StoredDocument
from pipeline.index.draft import Add, Change, Copy, Draft, Merged, Remove, newest
from pipeline.index.home import Home
from pipeline.index.manifest import DeletesRef, FileRef, Manifest, SegmentRef, sha256
from pipeline.index.merge import MergePlan, plan, plan_full
from pipeline.index.merging import Trace, merged_documents, rebased
from pipeline.index.recipe import Recipe
from pipeline.index.scratch import Scratch
from pipeline.index.segment import SegmentFacts, write
from pipeline.index.snapshot import Snapshot

Files = tuple[tuple[str, Path | bytes], ...]

ATTEMPTS: Final = 20
"""A merge meets a build that publishes ten times a second; its own publication takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a draft is drafted upon. Without a snapshot, nothing is published yet."""

    snapshot: Snapshot | None
    etag: str
    generation: int
    parent: str | None


class Writer:
    """Keeps the published generation open between drafts, so that only new segments are opened."""

    def __init__(
        self,
        home: Home,
        recipe: Recipe,
        *,
        scratch: Path,
        exact_rows: int = 200_000,
        target_recall: float = 0.98,
        merge_factor: int = 8,
        replace_recipe: bool = True,
    ) -> None:
        """Without `replace_recipe`, drafting upon an index of another recipe is a ConfigurationError; with it, a fresh start."""
        self.home = home
        self.recipe = recipe
        self._exact_rows = exact_rows
        self._target_recall = target_recall
        self._merge_factor = merge_factor
        self._replace_recipe = replace_recipe
        self._snapshot: Snapshot | None = None
        self._scratch = Scratch(scratch)

    def snapshot(self) -> Snapshot | None:
        """The published generation, opened. None where nothing is published yet. Raises CorruptIndex."""
        return self._base().snapshot

    # Changes ------------------------------------------------------------------------------------------------------

    def draft(self, changes: Iterable[Change], *, facts: Mapping[str, float] | None = None, note: str = "build") -> Draft | None:
        """The next generation, or None where the changes change nothing.

        A change is skipped unless its stamp is newer than that of the published document. A copy whose content is gone
        is left out and named in `missing`. Raises Conflict while the index is held, CorruptIndex.
        """
        changes = list(changes)
        base = self._unheld()
        kept = self._of_our_recipe(base)
        published = kept.find(change.uri for change in changes) if kept else {}
        due = {uri: change for uri, change in newest(changes).items() if uri not in published or change.stamp > published[uri].stamp}
        contents = _contents(due, changes, kept)
        missing = tuple(
            sorted(uri for uri, change in due.items() if isinstance(change, Copy) and change.document.content_hash not in contents)
        )
        leaving = [published[uri] for uri in due if uri in published and uri not in missing]
        arriving = sorted(uri for uri, change in due.items() if uri not in missing and not _removes(change))
        if not (leaving or arriving or missing):
            return None
        segments, files = self._buried(kept, leaving, base.generation + 1)
        dimension = kept.manifest.dimension if kept else 0
        if arriving:
            written = self._write(_documents([due[uri] for uri in arriving], contents, kept))
            segments, files = (*segments, written.ref), (*files, *written.files)
            if dimension not in {0, written.dimension}:
                raise ConfigurationError(
                    f"new vectors have {written.dimension} dimensions, those of the index {dimension}",
                    hint="the model must be part of the recipe, so that another model starts another index",
                )
            dimension = written.dimension
        manifest = self._manifest(base, segments, note, recipe=self.recipe, dimension=dimension, facts=facts)
        return Draft(manifest, files, base.etag, missing, scratch=self._scratch)

    def _of_our_recipe(self, base: Base) -> Snapshot | None:
        if base.snapshot is None or base.snapshot.manifest.recipe == self.recipe:
            return base.snapshot
        if not self._replace_recipe:
            raise ConfigurationError(
                f"the index has recipe {base.snapshot.manifest.recipe.digest}, the settings ask for {self.recipe.digest}",
                hint="restore the settings, or build the new index beside the old one",
            )
        return None

    def _buried(
        self, snapshot: Snapshot | None, leaving: Sequence[StoredDocument], generation: int
    ) -> tuple[tuple[SegmentRef, ...], Files]:
        """The published segments without the documents that leave, and the bitmaps that say so."""
        segments: list[SegmentRef] = []
        files: list[tuple[str, Path | bytes]] = []
        for view in snapshot.views if snapshot else ():
            gone = [document for document in leaving if document.segment == view.segment.id]
            ref: SegmentRef | None = view.ref
            if gone:
                dead = np.zeros(view.ref.rows, np.bool_) if view.dead is None else view.dead.copy()
                for document in gone:
                    dead[document.first_row : document.end_row] = True
                ref, file = with_dead(view.ref, dead, view.ref.live_documents - len(gone), generation)
                files += file
            segments += [ref] if ref else []
        return tuple(segments), tuple(files)

    # Merges -------------------------------------------------------------------------------------------------------

    def plan_merge(self) -> MergePlan | None:
        """The next merge worth doing, or None."""
        snapshot = self.snapshot()
        return plan(snapshot.manifest.segments, self._merge_factor) if snapshot else None

    def plan_rebuild(self) -> MergePlan | None:
        """Everything into one segment, or None where it is so already."""
        snapshot = self.snapshot()
        return plan_full(snapshot.manifest.segments) if snapshot else None

    def merge(self, plan: MergePlan) -> Draft:
        """Write the live rows of the plan's segments into one new segment. Raises Conflict where one of them is gone."""
        base = self._unheld()
        views = [view for view in base.snapshot.views if view.segment.id in plan.sources] if base.snapshot else []
        if base.snapshot is None or len(views) != len(plan.sources):
            raise Conflict("segments to be merged are no longer in the index", hint="plan the merge again")
        trace = Trace.of(views)
        written = self._write(merged_documents(views, trace))
        merged = Merged(written.ref, trace.sources(), trace.owners(), plan.reason)
        segments = [ref for ref in base.snapshot.manifest.segments if ref.id not in plan.sources]
        place = base.snapshot.views.index(views[0])
        segments.insert(place, written.ref)
        manifest = self._successor(base, base.snapshot.manifest, segments, plan.reason)
        return Draft(manifest, written.files, base.etag, merged=merged, scratch=self._scratch)

    def rebase(self, draft: Draft) -> Draft | None:
        """The same merge upon what is published now, with the deletes that arrived meanwhile; None where it became pointless."""
        base = self._unheld()
        if base.etag == draft.replaces:
            return draft
        if draft.merged is None or base.snapshot is None:
            raise Conflict("only a merge can be based on another generation", hint="draft the changes again")
        outcome = rebased(draft.merged, base.snapshot)
        if outcome is None:
            return None
        ref, files = draft.merged.ref, draft.files[: len(draft.merged.ref.files)]
        if outcome.dead.any():
            found, bitmap = with_dead(ref, outcome.dead, ref.documents - outcome.dead_documents, base.generation + 1)
            if found is None:
                return None
            ref, files = found, (*files, *bitmap)
        segments = [one for one in base.snapshot.manifest.segments if one.id not in draft.merged.sources]
        segments.insert(outcome.place, ref)
        manifest = self._successor(base, base.snapshot.manifest, segments, draft.merged.note)
        return Draft(manifest, files, base.etag, merged=draft.merged, scratch=draft.scratch)

    def commit(self, plan: MergePlan, publish: Callable[[Draft], Manifest]) -> Manifest | None:
        """Merge, then publish; based again as often as somebody was faster. None where the merge became pointless."""
        draft: Draft | None = self.merge(plan)
        for _ in range(ATTEMPTS):
            draft = self.rebase(draft) if draft else None
            if draft is None:
                return None
            with suppress(Conflict):
                return publish(draft)
        raise Conflict(f"a merge lost {ATTEMPTS} races against other publications", hint="it is tried again")

    # Shared -------------------------------------------------------------------------------------------------------

    def _base(self) -> Base:
        found = self.home.current()
        if found is None:
            self._snapshot = None
            return Base(None, "", self.home.latest_number(), None)
        manifest, etag = found
        if self._snapshot is None or self._snapshot.manifest != manifest:
            self._snapshot = Snapshot.open(self.home, manifest, self._snapshot)
        return Base(self._snapshot, etag, manifest.generation, manifest.name)

    def _unheld(self) -> Base:
        base = self._base()
        if base.snapshot and base.snapshot.manifest.held:
            raise Conflict(f"the index is held at generation {base.generation}", hint="let building go on with: dropdex resume")
        return base

    def _write(self, documents: Iterable[IndexedDocument]) -> Written:
        segment = uuid.uuid4().hex[:16]
        facts = write(self._scratch.folder(segment), documents, exact_rows=self._exact_rows, target_recall=self._target_recall)
        return _written(segment, facts)

    def _successor(self, base: Base, old: Manifest, segments: Sequence[SegmentRef], note: str) -> Manifest:
        return self._manifest(base, segments, note, recipe=old.recipe, dimension=old.dimension, facts=old.facts)

    def _manifest(
        self, base: Base, segments: Sequence[SegmentRef], note: str, *, recipe: Recipe, dimension: int, facts: Mapping[str, float] | None
    ) -> Manifest:
        return Manifest(
            generation=base.generation + 1,
            parent=base.parent,
            created_at=time.time(),
            recipe=recipe,
            dimension=dimension,
            segments=tuple(segments),
            note=note,
            facts=dict(facts or {}),
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A new segment, and the files to put before it can be published."""

    ref: SegmentRef
    files: Files
    dimension: int


def _written(segment: str, facts: SegmentFacts) -> Written:
    ref = SegmentRef(
        id=segment,
        rows=facts.rows,
        live_rows=facts.rows,
        documents=facts.documents,
        live_documents=facts.documents,
        index_type=facts.built.index_type,
        recall=facts.built.recall,
        breadth=facts.built.breadth,
        index=FileRef.of(facts.index),
        passages=FileRef.of(facts.passages),
    )
    return Written(ref, tuple(zip(ref.files, (facts.index, facts.passages), strict=True)), facts.dimension)


def with_dead(ref: SegmentRef, dead: deletes.Rows, live_documents: int, generation: int) -> tuple[SegmentRef | None, Files]:
    """The segment with these rows dead, and the bitmap to put; without live rows there is no segment any more."""
    live_rows = ref.rows - int(np.count_nonzero(dead))
    if live_rows == 0:
        return None, ()
    data = deletes.encode(dead)
    digest = sha256(data)
    # The digest keeps two drafts of one generation apart: whoever loses the race must not overwrite the winner's bitmap.
    name = f"deletes/{generation:08d}/{ref.id}-{digest[:12]}"
    return ref.with_deletes(DeletesRef(name=name, sha256=digest), live_rows, live_documents), ((name, data),)


def _removes(change: Change) -> bool:
    return isinstance(change, Remove) or (isinstance(change, Add) and not change.document.passages)


def _contents(
    due: Mapping[str, Change], changes: Iterable[Change], snapshot: Snapshot | None
) -> dict[str, IndexedDocument | StoredDocument]:
    """Content hash → where a copy finds it: among the changes (even a skipped one has the right passages), or in a segment."""
    wanted = {change.document.content_hash for change in due.values() if isinstance(change, Copy)}
    added = (change.document for change in changes if isinstance(change, Add) and change.document.passages)
    found: dict[str, IndexedDocument | StoredDocument] = {d.content_hash: d for d in added if d.content_hash in wanted}
    if snapshot and wanted - found.keys():
        found.update(snapshot.find_contents(wanted - found.keys()))
    return found


def _documents(
    arriving: Iterable[Change], contents: Mapping[str, IndexedDocument | StoredDocument], snapshot: Snapshot | None
) -> Iterator[IndexedDocument]:
    for change in arriving:
        if isinstance(change, Add):
            yield change.document
        elif isinstance(change, Copy):
            content = contents[change.document.content_hash]
            if isinstance(content, StoredDocument):
                assert snapshot
                content = snapshot.content(content)
            yield IndexedDocument.of(change.document, content.passages, content.vectors)
