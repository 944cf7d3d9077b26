"""Searches an index that somebody else keeps building. The whole API of whoever only wants answers.

A query runs on the snapshot it began with. A new generation is opened beside it and swapped in by setting one
attribute; one that cannot be opened is refused, once, and the old snapshot goes on answering.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from pipeline.base.errors import ConfigurationError, CorruptIndex, Unavailable
from pipeline.blobs import BlobStore
from pipeline.index.documents import Vectors
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.index.recipe import Recipe
from pipeline.index.snapshot import VERIFY_BYTES, Filter, Hit, Snapshot

if TYPE_CHECKING:
    from pipeline.embedder import Embedder

__all__ = ["Hit", "Reader"]

log = logging.getLogger(__name__)

FOLDER_POLL: Final = 0.05
"""Seconds. Reading CURRENT from a folder takes 30 µs."""
BUCKET_POLL: Final = 1.0
"""Seconds. A request to a bucket costs money and 20 ms."""


class Reader:
    """Safe to use from several threads at once. Close it, or use it as a context manager."""

    def __init__(self, home: Home, *, embedder: Embedder | None = None, verify_bytes: int = VERIFY_BYTES) -> None:
        """Opens nothing yet: see `open`, or call `refresh`."""
        self._home = home
        self._given = embedder
        self._embedders: dict[str, Embedder] = {}
        self._verify_bytes = verify_bytes
        self._snapshot: Snapshot | None = None
        self._opened = ""
        """Digest of the manifest that is open: a poll must not cost what it takes to compute that from the manifest."""
        self._refused = ""
        self._complaint = ""
        self._refreshing = threading.Lock()
        self._embedding = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        index: str | BlobStore,
        *,
        embedder: Embedder | None = None,
        refresh_every: float | None = None,
        cache_dir: Path | None = None,
        verify_bytes: int = VERIFY_BYTES,
    ) -> Self:
        """Open the index at a URL (or in a store) and follow it.

        `refresh_every` seconds (0: only when `refresh` is called) default to 0.05 in a folder and 1 in a bucket.
        `cache_dir` is where files of a bucket are kept; they are compared with their digests when they are copied. In a folder,
        an opening compares `verify_bytes` of what is new, the smallest files first, and opens the rest by size alone;
        `dropdex verify` reads everything. Without an embedder, the one of the index's recipe is loaded at the first
        query that is text. An index that does not exist yet answers nothing, and is picked up when it appears.
        """
        blobs = _store(index, cache_dir) if isinstance(index, str) else index
        reader = cls(Home(blobs), embedder=embedder, verify_bytes=verify_bytes)
        reader.refresh()
        interval = refresh_every if refresh_every is not None else FOLDER_POLL if blobs.url.startswith("file:") else BUCKET_POLL
        if interval > 0:
            reader._follow(interval)
        return reader

    def close(self) -> None:
        """Stop following. Queries that run are answered; files are closed with the last of them."""
        self._closing.set()
        if self._thread:
            self._thread.join()
        self._snapshot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def generation(self) -> int:
        """Of the snapshot that answers now; 0 while there is none."""
        snapshot = self._snapshot
        return snapshot.generation if snapshot else 0

    @property
    def snapshot(self) -> Snapshot | None:
        """The generation that answers now, for whoever asks several questions of the same one."""
        return self._snapshot

    # Searching ----------------------------------------------------------------------------------------------------

    def search(
        self, query: str | Vectors, k: int = 10, *, prefix: str = "", media_type: str = "", changed_since: float | None = None
    ) -> list[Hit]:
        """The best `k` passages for one query, a text or a vector, best first.

        Only documents whose uri starts with `prefix`, that have exactly this `media_type`, and that were modified at or
        after `changed_since` (seconds since the epoch). An empty index has no answers.
        """
        queries: Sequence[str] | Vectors = [query] if isinstance(query, str) else np.atleast_2d(query)
        if len(queries) != 1:
            raise ValueError("search answers one query; for several there is search_many")
        return self.search_many(queries, k, prefix=prefix, media_type=media_type, changed_since=changed_since)[0]

    def search_many(
        self, queries: Sequence[str] | Vectors, k: int = 10, *, prefix: str = "", media_type: str = "", changed_since: float | None = None
    ) -> list[list[Hit]]:
        """As `search`, for several queries at once, all answered by the same generation."""
        snapshot = self._snapshot
        if snapshot is None or not snapshot.views:
            return [[] for _ in queries]
        vectors = queries if isinstance(queries, np.ndarray) else self._embed(list(queries), snapshot.manifest)
        return snapshot.search(vectors, k, Filter(prefix, media_type, changed_since or 0.0))

    def _embed(self, texts: list[str], manifest: Manifest) -> Vectors:
        if not texts:
            return np.empty((0, manifest.dimension), np.float32)
        return np.asarray((self._given or self._embedder(manifest.recipe)).embed(texts), np.float32)

    def _embedder(self, recipe: Recipe) -> Embedder:
        """The embedder of a recipe, loaded once. A query takes that of its own snapshot, whatever was swapped in meanwhile."""
        from pipeline.embedder import open_embedder

        model, revision = recipe.get("model"), recipe.get("revision")
        if not model:
            raise ConfigurationError("the index does not say which model it was built with", hint="give the reader an embedder")
        with self._embedding:
            if recipe.digest not in self._embedders:
                embedder = open_embedder(model, backend=recipe.get("backend", "auto"), precision=recipe.get("precision", "auto"))
                if revision and embedder.revision != revision:
                    raise ConfigurationError(
                        f"the index was built with revision {revision} of {model}, this machine has {embedder.revision}",
                        hint="install the same model here, or give the reader an embedder",
                    )
                embedder.warm()
                self._embedders[recipe.digest] = embedder
            return self._embedders[recipe.digest]

    # Following ----------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Open the published generation if it is another one; whether it was.

        A damaged generation is logged and refused, an unreachable home is logged; either way the open one stays.
        Raises ConfigurationError where only an operator can help.
        """
        with self._refreshing:
            self._refused = ""
            return self._refresh()

    def _refresh(self) -> bool:
        try:
            found = self._home.pointer()
            if found is None or found[1] == self._refused or (self._snapshot and found[0].sha256 == self._opened):
                return False
            self._refused = found[1]  # until it is open: what is damaged now is damaged at the next poll
            self._swap(self._home.read(found[0]))
            self._opened = found[0].sha256
        except CorruptIndex as error:
            self._complain("refused", error)
            return False
        except Unavailable as error:
            self._refused = ""
            self._complain("unavailable", error)
            return False
        self._refused = self._complaint = ""
        log.info("generation opened", extra={"action": "opened", "generation": self.generation})
        return True

    def _swap(self, manifest: Manifest) -> None:
        """Everything slow happens before the swap: also loading the model of a new recipe, if queries needed one so far."""
        snapshot = Snapshot.open(self._home, manifest, self._snapshot, verify_bytes=self._verify_bytes)
        if self._embedders:
            self._embedder(manifest.recipe)
            served = {one.manifest.recipe.digest for one in (self._snapshot, snapshot) if one}
            self._embedders = {digest: embedder for digest, embedder in self._embedders.items() if digest in served}
        self._snapshot = snapshot

    def _complain(self, action: str, error: Exception) -> None:
        """Once per reason, and not at every poll."""
        if self._complaint != str(error):
            self._complaint = str(error)
            log.error("refresh failed", extra={"action": action, "reason": str(error), "serving": self.generation})

    def _follow(self, interval: float) -> None:
        self._thread = threading.Thread(target=self._keep_refreshing, args=(interval,), name="dropdex-refresh", daemon=True)
        self._thread.start()

    def _keep_refreshing(self, interval: float) -> None:
        while not self._closing.wait(interval):
            with self._refreshing:
                try:
                    self._refresh()
                except Exception as error:  # whatever it is, a reader that no longer follows would be worse
                    self._complain("failed", error)


def _store(url: str, cache_dir: Path | None) -> BlobStore:
    from pipeline.blobs.open import open_store

    return open_store(url, cache_dir=cache_dir) if cache_dir else open_store(url)
