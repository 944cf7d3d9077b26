"""A copy of the index in another home. Only what is missing there is copied, and its CURRENT moves last.

A mirror never goes back: generations only ever count up, a rollback included, so a lower number is an old message.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path

from pipeline.base.errors import Conflict, CorruptIndex
from pipeline.blobs import ABSENT, BlobStore
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest, Pointer

log = logging.getLogger(__name__)


class Mirror:
    """A Sink that brings `target` to the generation that `home` serves."""

    def __init__(self, home: Home, target: BlobStore) -> None:
        self._home = home
        self._target = Home(target)

    @property
    def name(self) -> str:
        return f"mirror {self._target.blobs.url}"

    def publish(self, manifest: Manifest) -> None:
        """Raises Conflict where somebody else mirrors at this moment, CorruptIndex where the source is damaged."""
        current = self._home.current()
        if current and current[0].generation > manifest.generation:
            manifest = current[0]  # files of the older one may be collected already, and nobody misses it
        there = self._target.pointer()
        if there and there[0].generation >= manifest.generation:
            if there[0].generation == manifest.generation and there[0] != Pointer.to(manifest):
                raise Conflict(f"{self.name} holds another index", hint="mirror into an empty folder or prefix")
            return
        copied = self._copy_files(manifest)
        target = self._target.blobs
        target.put(manifest.name, manifest.to_bytes())
        target.put(self._target.pointer_name, Pointer.to(manifest).to_bytes(), replacing=there[1] if there else ABSENT)
        log.info("generation mirrored", extra={"action": "mirrored", "generation": manifest.generation, "copied": copied})

    def _copy_files(self, manifest: Manifest) -> int:
        """Copy what the target lacks; return how many bytes that was."""
        sizes = {info.name: info.size for prefix in ("segments/", "deletes/") for info in self._target.blobs.list(prefix)}
        copied = 0
        for ref in manifest.segments:
            for name, file in ref.files.items():
                if sizes.get(name) != file.size:
                    self._copy_file(name, file.sha256)
                    copied += file.size
            if ref.deletes and ref.deletes.name not in sizes:
                self._home.dead_rows(ref)
                blob = self._home.blobs.get(ref.deletes.name)
                assert blob
                self._target.blobs.put(ref.deletes.name, blob.data)
                copied += len(blob.data)
        return copied

    def _copy_file(self, name: str, digest: str) -> None:
        """By way of a temporary file: a store may move what it is given, and the source must keep its own."""
        with tempfile.TemporaryDirectory(prefix="dropdex-mirror-") as folder:
            copy = Path(folder) / "blob"
            shutil.copyfile(self._home.blobs.fetch(name, digest=digest), copy)
            with copy.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise CorruptIndex(f"{name} is damaged and was not mirrored", hint="dropdex verify tells what else is damaged")
            self._target.blobs.put(name, copy)
