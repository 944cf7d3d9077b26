"""A folder for files on their way into a home. It lives as long as the writer, or a draft of it, that may still need them.

What a killed process left behind is removed a day later, by whoever comes next.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

ABANDONED_AFTER: Final = 86_400.0
"""Seconds. No merge takes a day."""


class Scratch:
    """Folders under `parent`, removed with the last reference to this."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        self._folder = Path(tempfile.mkdtemp(prefix="draft-", dir=parent))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def folder(self, name: str) -> Path:
        """A new folder. Those whose files have been moved into the home meanwhile are removed."""
        for emptied in self._folder.iterdir():
            with suppress(OSError):
                emptied.rmdir()
        folder = self._folder / name
        folder.mkdir()
        return folder


def _sweep(parent: Path) -> None:
    for folder in parent.glob("draft-*"):
        with suppress(OSError):
            if folder.stat().st_mtime < time.time() - ABANDONED_AFTER:
                shutil.rmtree(folder)
