"""A model without a model, for tests: texts that share words are near each other, and nothing is downloaded or loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from zlib import crc32

import numpy as np

from pipeline.embedder.plan import Vectors

_WORD: Final = re.compile(r"\w+")
_CACHED_WORDS: Final = 500_000
_ROWS_AT_ONCE: Final = 1_024


class HashEmbedder:
    """Counts words in hashed places: no model, no download, and texts that share words are near each other. For tests."""

    revision = "1"
    precision = "fp32"
    backend = "numpy"
    tokenizer = None
    window = 1_000

    def __init__(self, dimension: int) -> None:
        self.name = f"hash:{dimension}"
        self.dimension = dimension
        self._places: dict[str, int] = {}

    def warm(self) -> None:
        """Nothing to load."""

    def embed(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _ROWS_AT_ONCE):
            rows = texts[start : start + _ROWS_AT_ONCE]
            vectors[start : start + len(rows)] = self._embed(rows)
        return vectors

    def _embed(self, texts: Sequence[str]) -> Vectors:
        found = [_WORD.findall(text.lower()) or [text] for text in texts]
        signed = np.fromiter((place for words in found for place in self._look_up(words)), np.int64)
        rows = np.repeat(np.arange(len(found)), [len(words) for words in found])
        cells = rows * self.dimension + (signed >> 1)
        sums = np.bincount(cells, weights=1.0 - 2.0 * (signed & 1), minlength=len(found) * self.dimension)
        vectors = sums.reshape(len(found), self.dimension)
        lengths = np.linalg.norm(vectors, axis=1)
        vectors[lengths == 0, 0] = 1.0  # words that cancel each other out
        return (vectors / np.where(lengths == 0, 1.0, lengths)[:, None]).astype(np.float32)

    def _look_up(self, words: list[str]) -> list[int]:
        """Place and sign of each word, as 2 × place + sign."""
        places = self._places
        try:
            return [places[word] for word in words]
        except KeyError:
            if len(places) > _CACHED_WORDS:
                places = self._places = {}
            for word in words:
                places[word] = crc32(word.encode("utf-8", "replace")) % (2 * self.dimension)
            return [places[word] for word in words]
