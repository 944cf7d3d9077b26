"""The home of an index: generations by name, and the pointer that says which one is served.

Whatever is read through here was verified against the digest that names it, up to the pointer itself. Moving the
pointer is the only step that makes a generation visible, and it is conditional.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Final

from pipeline.base.errors import CorruptIndex
from pipeline.blobs import ABSENT, BlobStore
from pipeline.index.deletes import Rows, decode
from pipeline.index.draft import Draft
from pipeline.index.manifest import FileRef, Manifest, Pointer, SegmentRef, sha256

CURRENT: Final = "CURRENT"
BESIDE: Final = "NEXT-"
"""Pointers of indexes that are being built beside the served one."""
MANIFESTS: Final = "manifests/"
BUILD: Final = "build"
"""What a generation's note says where it brought new outcomes in. Merges and operators move only what was there."""
DAMAGED: Final = "dropdex verify tells what else is damaged; dropdex rollback serves an earlier generation"


class Home:
    """An index in `blobs`. Another `pointer` is another index that shares the segments' space, such as one being built."""

    def __init__(self, blobs: BlobStore, pointer: str = CURRENT) -> None:
        self.blobs = blobs
        self.pointer_name = pointer
        self._verified: set[str] = set()
        self._served: tuple[str, Manifest] | None = None
        """The last manifest that was read, and its digest, which takes longer to compute than all the rest of a poll."""
        self._lock = threading.Lock()

    def beside(self, recipe_digest: str) -> Home:
        """The home of an index with another recipe, in the same place."""
        return Home(self.blobs, f"{BESIDE}{recipe_digest}")

    # Generations --------------------------------------------------------------------------------------------------

    def pointer(self) -> tuple[Pointer, str] | None:
        """What the pointer says, and its etag. None where nothing was ever published. Raises CorruptIndex."""
        blob = self.blobs.get(self.pointer_name)
        if blob is None:
            return None
        try:
            return Pointer.from_bytes(blob.data), blob.etag
        except CorruptIndex as error:
            raise CorruptIndex(f"{self.pointer_name} of {self.blobs.url} is damaged: {error}", hint=DAMAGED) from error

    def current(self) -> tuple[Manifest, str] | None:
        """The published generation and the etag to replace. Raises CorruptIndex."""
        found = self.pointer()
        return (self.read(found[0]), found[1]) if found else None

    def read(self, pointer: Pointer) -> Manifest:
        """The manifest that a pointer names. The last one is remembered: a build asks several times, and a bucket takes its time."""
        served = self._served
        if served and served[0] == pointer.sha256:
            return served[1]
        manifest = self._manifest(pointer.manifest)
        if manifest is None:
            raise CorruptIndex(f"{pointer.manifest} is missing from {self.blobs.url}", hint=DAMAGED)
        if manifest.digest != pointer.sha256 or manifest.generation != pointer.generation:
            raise CorruptIndex(f"{pointer.manifest} is not what {self.pointer_name} says", hint=DAMAGED)
        self._served = (pointer.sha256, manifest)
        return manifest

    def generations(self, limit: int | None = None) -> list[Manifest]:
        """Published generations, newest first, as far back as they are kept."""
        return list(islice(self._history(), limit))

    def built_since(self, generation: int) -> list[Manifest]:
        """The published generations after `generation` that were built, newest first."""
        return [m for m in takewhile(lambda m: m.generation > generation, self._history()) if m.note == BUILD]

    def load(self, generation: int) -> Manifest:
        """The manifest that was published as `generation`. Raises CorruptIndex where it is not kept.

        A draft that lost its race leaves a manifest of the same number behind, so the history decides between them.
        """
        for manifest in self._history():
            if manifest.generation == generation:
                return manifest
            if manifest.generation < generation:
                break
        raise CorruptIndex(f"generation {generation} is not kept in {self.blobs.url}", hint="list those that are: dropdex generations")

    def _history(self) -> Iterator[Manifest]:
        found = self.current()
        manifest = found[0] if found else None
        while manifest is not None:
            yield manifest
            manifest = self._manifest(manifest.parent) if manifest.parent else None

    def _manifest(self, name: str) -> Manifest | None:
        blob = self.blobs.get(name)
        if blob is None:
            return None
        manifest = Manifest.from_bytes(blob.data)
        if manifest.name != name or sha256(blob.data) != manifest.digest:
            raise CorruptIndex(f"{name} has other content than its name says", hint=DAMAGED)
        return manifest

    def latest_number(self) -> int:
        """The highest generation that left a manifest here, so that a lost pointer does not restart the count."""
        names = (info.name.removeprefix(MANIFESTS) for info in self.blobs.list(MANIFESTS))
        return max((int(name.partition("-")[0]) for name in names if name[:8].isdigit()), default=0)

    def commit(self, draft: Draft) -> Manifest:
        """Write the manifest and move the pointer. The files must be there. Raises Conflict where somebody was faster."""
        manifest = draft.manifest
        found = self.pointer()
        if found is None or found[0] != Pointer.to(manifest):
            self.blobs.put(manifest.name, manifest.to_bytes())
            self.read(Pointer.to(manifest))  # what was written short must not become what is served
            self.blobs.put(self.pointer_name, Pointer.to(manifest).to_bytes(), replacing=draft.replaces or ABSENT)
        return manifest

    # Files --------------------------------------------------------------------------------------------------------

    def open_file(self, name: str, ref: FileRef, *, verify: bool = True) -> Path:
        """A local file with the bytes that `ref` describes. Its size is always compared, its digest once per process."""
        path = self.blobs.fetch(name, digest=ref.sha256)
        if path.stat().st_size != ref.size:
            raise CorruptIndex(f"{name} has {path.stat().st_size} bytes instead of {ref.size}", hint=DAMAGED)
        if verify and ref.sha256 not in self._verified:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != ref.sha256:
                    raise CorruptIndex(f"{name} has other content than its manifest says", hint=DAMAGED)
            with self._lock:
                self._verified.add(ref.sha256)
        return path

    def dead_rows(self, segment: SegmentRef) -> Rows | None:
        """The rows of a segment that no longer count; None where all of them do."""
        if segment.deletes is None:
            return None
        blob = self.blobs.get(segment.deletes.name)
        if blob is None or sha256(blob.data) != segment.deletes.sha256:
            raise CorruptIndex(f"{segment.deletes.name} is missing or damaged", hint=DAMAGED)
        dead = decode(blob.data, segment.rows)
        if segment.rows - int(dead.sum()) != segment.live_rows:
            raise CorruptIndex(f"{segment.deletes.name} does not leave the rows that its manifest says", hint=DAMAGED)
        return dead
