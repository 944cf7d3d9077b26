"""Texts to vectors of length one. The only room that knows sentence-transformers, OpenVINO and their kin, and it opens them late.

What a recipe needs (name, revision, window, precision, backend) is read from the model's files and from what is installed,
so that the processes which only compare recipes never load a library that computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pipeline.base.errors import ConfigurationError
from pipeline.embedder.choice import Backend, Precision, choose
from pipeline.embedder.files import PACKAGED, WORDLLAMA, is_static, model_folder, static_files, wordllama_files
from pipeline.embedder.hashing import HashEmbedder
from pipeline.embedder.plan import Vectors, batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PACKAGED", "Backend", "Embedder", "HashEmbedder", "Precision", "Vectors", "batches", "open_embedder"]


class Embedder(Protocol):
    """The seam between the pipeline and a model. Every method may be called by several threads at once."""

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

    def embed(self, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Vectors:
        """One vector of length one per text, as float32[n, dimension]. `ids`: their tokens, where the splitter has found them."""
        ...


def open_embedder(model: str, *, backend: str = "auto", precision: str = "auto", token_budget: int = 1024, threads: int = 0) -> Embedder:
    """Open a model by name: the packaged one, a folder, a name on the hub, `wordllama:256`, or `hash:256` for tests.

    A backend and a precision that a recipe names give the vectors of that recipe. `auto` takes the fastest that stays
    within a cosine of 0.999 of float32, by what this machine has. Static and hash models compute in one way only.
    Raises ConfigurationError.
    """
    scheme, _, dimension = model.partition(":")
    if scheme == "hash":
        return HashEmbedder(_dimension(model, dimension))
    if scheme == WORDLLAMA:
        from pipeline.embedder.static import StaticEmbedder

        return StaticEmbedder(model, wordllama_files(_dimension(model, dimension)))
    folder = model_folder(model)
    if is_static(folder):
        from pipeline.embedder.static import StaticEmbedder

        return StaticEmbedder(model, static_files(folder))
    chosen = choose(backend, precision)
    if chosen.backend == "openvino":
        from pipeline.embedder.openvino_backend import OpenVinoEmbedder

        return OpenVinoEmbedder(model, folder, chosen.precision, token_budget=token_budget, threads=threads)
    from pipeline.embedder.torch_backend import TorchEmbedder

    return TorchEmbedder(model, folder, chosen.precision, token_budget=token_budget, threads=threads)


def _dimension(model: str, dimension: str) -> int:
    if not (dimension.isascii() and dimension.isdigit() and int(dimension) > 0):
        kind = model.partition(":")[0]
        raise ConfigurationError(f"{model} is not a {kind} embedder", hint=f"write {kind}:DIMENSION, for example {kind}:256")
    return int(dimension)
