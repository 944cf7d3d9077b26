"""sentence-transformers as it comes, on torch: for models that nothing else computes, and for a GPU.

The model serves one forward pass at a time: torch spreads each over every core (or the GPU) by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.embedder.files import declared_window, unusable
from pipeline.embedder.plan import Vectors
from pipeline.embedder.transformer import TransformerEmbedder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

_GPU_BUDGET: Final = 65_536
"""Tokens per forward pass on a GPU at the least: it has no use for batches that fit a processor's cache."""


LOAD_ERRORS: Final = (OSError, ValueError, KeyError, ImportError)
"""What a folder without a usable model raises."""


def load(folder: Path, precision: str = "fp32", device: str | None = None) -> SentenceTransformer:
    """The model in a folder, quietly and without a network. Raises one of LOAD_ERRORS."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs={"dtype": dtype})
    model.max_seq_length = declared_window(folder) or model.max_seq_length
    return model


class TorchEmbedder(TransformerEmbedder):
    """Computes in one lane."""

    backend = "torch"

    def __init__(self, name: str, folder: Path, precision: str, *, token_budget: int, threads: int) -> None:
        super().__init__(name, folder, precision, token_budget=token_budget, threads=threads)
        self._loading = threading.Lock()
        self._computing = threading.Lock()
        self._loaded: SentenceTransformer | None = None

    @cached_property
    def dimension(self) -> int:
        return int(self._model().get_embedding_dimension() or 0)

    def _lanes(self) -> int:
        return 1

    def _forward(self, texts: list[str], ids: list[Sequence[int]]) -> Vectors:
        model = self._model()
        with self._computing:
            vectors = model.encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        return np.asarray(vectors.float().cpu().numpy(), np.float32)

    def _computed_window(self) -> int:
        return int(self._model().max_seq_length or 0)

    def _computed_tokenizer(self) -> str:
        return str(self._model().tokenizer.backend_tokenizer.to_str())

    def _model(self) -> SentenceTransformer:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> SentenceTransformer:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            model = load(self._folder, self.precision)
        except LOAD_ERRORS as error:
            raise unusable(self.name, str(error) or type(error).__name__) from error
        if model.device.type == "cuda":
            self._budget = max(self._budget, _GPU_BUDGET)
        log.info("model loaded", extra={"action": "model_loaded", "model": self.name, "device": model.device.type})
        return model
