"""What the transformer models have in common: their files, their tokenizer, and batches by token budget over several lanes.

A lane is a forward pass that runs beside others. Callers take turns at the lanes batch by batch, so that a query or a
live document waits for a batch of a backfill and not for all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.embedder.files import declared_window, digest
from pipeline.embedder.plan import Vectors, batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WINDOW: Final = 512
"""Tokens, where neither the configuration nor the model says."""

_SMALLEST_BATCH: Final = 128
"""Tokens: below that, spreading a few texts over all lanes gains nothing."""


class TransformerEmbedder(ABC):
    """A sentence-transformers model whose forward pass a subclass computes."""

    backend: str

    def __init__(self, name: str, folder: Path, precision: str, *, token_budget: int, threads: int) -> None:
        self.name = name
        self.precision = precision
        self._folder = folder
        self._budget = token_budget
        self._threads = threads

    @cached_property
    def revision(self) -> str:
        return digest(self._folder)

    @cached_property
    def window(self) -> int:
        return declared_window(self._folder) or self._computed_window() or _WINDOW

    @property
    @abstractmethod
    def dimension(self) -> int: ...

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Not the object that the model uses: some models' own truncates and pads."""
        from tokenizers import Tokenizer

        file = self._folder / "tokenizer.json"
        tokenizer: Tokenizer = Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_str(self._computed_tokenizer())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def warm(self) -> None:
        self.embed(["warm"])

    def embed(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        if ids is None:
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]
        counts = np.minimum([len(one) for one in ids], self.window)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        lanes = self._lanes()
        share = -(-int(counts.sum()) // lanes)
        plan = list(batches(counts, self._budget if lanes == 1 else min(self._budget, max(share, _SMALLEST_BATCH))))

        def compute(rows: NDArray[np.intp]) -> None:
            vectors[rows] = self._forward([texts[row] for row in rows], [ids[row] for row in rows])

        if lanes == 1 or len(plan) < 2:
            for rows in plan:
                compute(rows)
        else:
            with ThreadPoolExecutor(min(lanes, len(plan)), "dropdex-lane") as pool:
                for _ in pool.map(compute, plan):
                    pass
        return vectors

    @abstractmethod
    def _lanes(self) -> int:
        """Forward passes that run at the same time."""

    @abstractmethod
    def _forward(self, texts: list[str], ids: list[Sequence[int]]) -> Vectors:
        """One batch, normalised, given its texts and their tokens. Waits for its turn."""

    @abstractmethod
    def _computed_window(self) -> int:
        """The window, as only the loaded model knows it."""

    @abstractmethod
    def _computed_tokenizer(self) -> str:
        """The tokenizer as JSON, where the model's folder has none."""
