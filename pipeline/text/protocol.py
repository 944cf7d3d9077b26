"""What an extraction child and its parent say to each other: bytes and plain text, never a pickle.

The parent sends a media type, then the document. The child sends READY once, then for each document TEXT or REFUSED,
followed by the text or the reason.
"""

from __future__ import annotations

from typing import Final

READY: Final = b"ready"
TEXT: Final = b"text"
REFUSED: Final = b"refused"

OUT_OF_MEMORY: Final = 77
"""Exit status of a child after a MemoryError: what is left of its heap is not worth trusting."""


def too_long(characters: int, limit: int) -> str:
    """The reason for refusing a text, wherever it came from."""
    return f"the document has {characters:,} characters of text, and the limit is {limit:,}"
