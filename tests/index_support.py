"""Documents whose text and vectors follow from a word, and an index in a folder to put them in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from pipeline.base.model import Passage
from pipeline.blobs.folder import FolderStore
from pipeline.index.documents import DocumentFacts, IndexedDocument
from pipeline.index.draft import Add, Change, Copy, Draft, Remove
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.index.recipe import Recipe
from pipeline.index.snapshot import Filter, Hit, Snapshot
from pipeline.index.writer import Writer
from pipeline.sinks.swap import Swap

DIMENSION = 16
RECIPE = Recipe.of({"model": f"hash:{DIMENSION}"})


def vectors_of(word: str, rows: int | None = None) -> np.ndarray:
    """One to three unit vectors, always the same for the same word."""
    seed = crc32(word.encode())
    vectors = np.random.default_rng(seed).standard_normal((rows or 1 + seed % 3, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def passages_of(word: str) -> tuple[Passage, ...]:
    return tuple(Passage(f"{word} {number}", number, number + len(word)) for number in range(len(vectors_of(word))))


def facts_of(uri: str, word: str, stamp: int, media_type: str = "text/plain") -> DocumentFacts:
    return DocumentFacts(uri, f"v{stamp}", f"hash of {word}", stamp, len(word), media_type, float(stamp))


def document(uri: str, word: str, stamp: int, media_type: str = "text/plain") -> IndexedDocument:
    return IndexedDocument.of(facts_of(uri, word, stamp, media_type), passages_of(word), vectors_of(word))


class HastyFolder(FolderStore):
    """A folder that leaves the disk to the operating system: no test pulls the plug, and fsync is slow on a busy machine."""

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        return super().put(name, content, replacing=replacing, durable=False)


@dataclass
class Index:
    """A home with a writer and a sink, and verbs that read as a test does. Stamps rise by themselves."""

    root: Path
    options: dict[str, Any] = field(default_factory=dict)
    stamps: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.store = HastyFolder(self.root / "home")
        self.home = Home(self.store)
        self.writer = self.new_writer()
        self.swap = Swap(self.home)

    def new_writer(self, recipe: Recipe = RECIPE, home: Home | None = None, **options: Any) -> Writer:
        return Writer(home or self.home, recipe, scratch=self.root / "scratch", **{**self.options, **options})

    def add(self, uri: str, word: str, **more: Any) -> Add:
        return Add(document(uri, word, next(self.stamps), **more))

    def copy(self, uri: str, word: str) -> Copy:
        return Copy(facts_of(uri, word, next(self.stamps)))

    def remove(self, uri: str) -> Remove:
        return Remove(uri, next(self.stamps))

    def draft(self, *changes: Change) -> Draft:
        draft = self.writer.draft(changes)
        assert draft
        return draft

    def publish(self, *changes: Change) -> Manifest:
        return self.swap.publish(self.draft(*changes))

    def current(self) -> Manifest:
        found = self.home.current()
        assert found
        return found[0]

    def snapshot(self) -> Snapshot:
        return Snapshot.open(Home(self.store), self.current())

    def words(self) -> dict[str, str]:
        """Uri → word of every live document."""
        return words(self.snapshot())


def words(snapshot: Snapshot) -> dict[str, str]:
    return {d.uri: d.content_hash.removeprefix("hash of ") for d in snapshot.documents()}


def brute_force(live: dict[str, str], query: np.ndarray, k: int, wanted: Filter | None = None) -> list[tuple[float, str, str]]:
    """Score, uri and text of the best passages, computed from the documents themselves."""
    found = [
        (float(vector.astype(np.float16).astype(np.float32) @ query), uri, passage.text)
        for uri, word in live.items()
        if wanted is None or uri.startswith(wanted.prefix)
        for passage, vector in zip(passages_of(word), vectors_of(word), strict=True)
    ]
    return sorted(found, reverse=True)[:k]


def assert_answers(hits: Iterable[Hit], expected: list[tuple[float, str, str]], live: dict[str, str]) -> None:
    """Equal scores in equal order; equal scores may change places, so each hit is compared with its document."""
    hits = list(hits)
    np.testing.assert_allclose([hit.score for hit in hits], [score for score, _, _ in expected], atol=1e-3)
    assert len({(hit.uri, hit.start) for hit in hits}) == len(hits)
    for hit in hits:
        assert Passage(hit.text, hit.start, hit.end) in passages_of(live[hit.uri])
