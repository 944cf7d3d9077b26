"""dropdex: drop a file, search it a moment later.

The package root offers what a reader of the index needs and imports nothing heavy until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.index.reader import Hit, Reader

__all__ = ["Hit", "Reader"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pipeline.index import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
