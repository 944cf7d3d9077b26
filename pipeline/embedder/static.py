"""Static models: one vector per token and their mean. Thousands of texts a second, at the price of what word order says.

Reads the files of a StaticEmbedding model (model2vec's among them) and of the wordllama package; needs numpy and a tokenizer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.embedder.files import StaticFiles, digest, unusable
from pipeline.embedder.plan import Vectors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

_TEXTS_AT_ONCE: Final = 64
"""Bounds what the encodings take, and lets threads take turns at the tokenizer's own."""


class StaticEmbedder:
    """Computes in the thread that asks, without a lock: nothing is shared but what is only read."""

    precision = "fp32"
    backend = "numpy"
    window = 512
    """Tokens per passage. The model itself has no limit, but the mean of a whole book says little."""

    def __init__(self, name: str, files: StaticFiles) -> None:
        self.name = name
        self._files = files
        self._loading = threading.Lock()
        self._loaded: Vectors | None = None

    @cached_property
    def revision(self) -> str:
        return digest(self._files.tokenizer, self._files.weights)

    @property
    def dimension(self) -> int:
        return int(self._table().shape[1])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer
        from tokenizers.processors import TemplateProcessing

        try:
            tokenizer: Tokenizer = Tokenizer.from_file(str(self._files.tokenizer))
        except Exception as error:  # the library raises nothing more exact
            raise unusable(self.name, str(error)) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.post_processor = TemplateProcessing(single="$A")  # the mean is one of the text's own tokens, so no special ones
        return tokenizer

    def warm(self) -> None:
        self.embed(["warm"])

    def embed(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chosen = slice(start, start + _TEXTS_AT_ONCE)
            vectors[chosen] = self._means(ids[chosen] if ids is not None else self._ids(texts[chosen]))
        return vectors

    def _ids(self, texts: Sequence[str]) -> list[Sequence[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def _means(self, ids: Sequence[Sequence[int]]) -> Vectors:
        """Normalised. A text without a token becomes the first axis, since every vector has length one."""
        table = self._table()
        means = np.zeros((len(ids), table.shape[1]), np.float32)
        for row, found in enumerate(ids):
            if found:
                table.take(found, axis=0, mode="clip").mean(axis=0, out=means[row])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        means[lengths[:, 0] == 0, 0] = 1.0
        lengths[lengths == 0] = 1.0
        means /= lengths
        return means

    def _table(self) -> Vectors:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Vectors:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(self._files.weights)
            table = tensors["embedding.weight"] if "embedding.weight" in tensors else tensors["embeddings"]
        except (OSError, KeyError, SafetensorError) as error:
            raise unusable(self.name, str(error)) from error
        if "mapping" in tensors:
            table = table[tensors["mapping"]]
        table = table[:, : self._files.dimension or None].astype(np.float32)
        if "weights" in tensors:
            table *= tensors["weights"].astype(np.float32)[:, None]
        log.info("model loaded", extra={"action": "model_loaded", "model": self.name, "tokens": len(table)})
        return np.ascontiguousarray(table)
