"""Bytes become text, text becomes passages. Knows no source, no model and no index.

What strangers wrote is parsed in child processes that may die; what is plain text is decoded in place. Importing this
package loads no parser, so that the processes which only pass documents on stay small.
"""

from __future__ import annotations

from importlib.metadata import version

from pipeline.text.extract import Extractor
from pipeline.text.split import VERSION, Piece, Splitter

__all__ = ["Extractor", "Piece", "Splitter", "extractor_id", "splitter_id"]


def extractor_id() -> str:
    """The extractor's part of the recipe: another value may read another text from the same bytes."""
    return f"kreuzberg-{_minor('kreuzberg')}"


def splitter_id(max_tokens: int) -> str:
    """The splitter's part of the recipe: another value may cut the same text into other passages."""
    return f"breaks-{VERSION}-{max_tokens}"


def _minor(distribution: str) -> str:
    """Without the patch release, which mends and does not reword: it must not cause every document to be embedded again."""
    return ".".join(version(distribution).split(".")[:2])
