"""What one embed task wrote: passages and vectors of some documents, by content hash. Written once, read by a build.

A safetensors file, so that reading one can run nobody's code: all vectors in one tensor, everything else as JSON in
another. Malformed bytes are CorruptIndex, and the documents in them are embedded again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.base.errors import CorruptIndex
from pipeline.base.model import Passage

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShardDocument:
    """The passages of one content and their vectors, row by row."""

    content_hash: str
    passages: tuple[Passage, ...]
    vectors: Vectors = field(repr=False, compare=False)


def encode(documents: Sequence[ShardDocument]) -> bytes:
    """One blob for all of them. Raises ValueError where passages and finite vectors do not pair up."""
    for document in documents:
        if document.vectors.ndim != 2 or len(document.vectors) != len(document.passages):
            raise ValueError(f"content {document.content_hash} needs one finite vector per passage")
    vectors = np.concatenate([d.vectors for d in documents if len(d.vectors)] or [np.empty((0, 0), np.float32)])
    if not np.isfinite(vectors).all():
        raise ValueError("a shard needs one finite vector per passage")
    facts = [[d.content_hash, [[p.text, p.start, p.end] for p in d.passages]] for d in documents]
    # A lone surrogate, which some extractors let through, has no UTF-8: it becomes a question mark here, once.
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return save({"vectors": np.ascontiguousarray(vectors, dtype=np.float32), "documents": np.frombuffer(text, np.uint8)})


def decode(data: bytes) -> dict[str, ShardDocument]:
    """Content hash → document. Raises CorruptIndex."""
    try:
        tensors = load(data)
        vectors, facts = tensors["vectors"], json.loads(tensors["documents"].tobytes())
        documents = dict(_documents(facts, vectors))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptIndex(f"a shard cannot be read: {error}", hint="its documents are embedded again") from error
    if sum(len(passages) for _, passages in facts) != len(vectors):
        raise CorruptIndex("a shard has vectors without passages", hint="its documents are embedded again")
    return documents


def _documents(facts: list[tuple[str, list[tuple[str, int, int]]]], vectors: Vectors) -> list[tuple[str, ShardDocument]]:
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError("vectors must be rows of float32")
    documents, row = [], 0
    for content_hash, passages in facts:
        end = row + len(passages)
        if end > len(vectors):
            raise ValueError("more passages than vectors")
        texts = tuple(Passage(str(text), int(first), int(last)) for text, first, last in passages)
        documents.append((str(content_hash), ShardDocument(str(content_hash), texts, vectors[row:end])))
        row = end
    return documents
