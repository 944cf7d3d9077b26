"""What stands between the pipeline and its disk: writes that fail, are cut short or bent, and a plug that can be pulled."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import Unavailable
from pipeline.blobs.folder import FolderStore


class Writes:
    """Watches every put of a kind of store. Told to, it spoils the n-th one from now."""

    def __init__(self, store: type, patch: pytest.MonkeyPatch, moved: Callable[[], None]) -> None:
        self._real, self._moved = store.put, moved  # type: ignore[attr-defined]
        self._due, self._struck = 0, False
        self._spoil: Callable[[Any, str, bytes | Path], bytes | Path] = lambda _store, _name, content: content
        shim = self

        def put(store: Any, name: str, content: bytes | Path, **options: Any) -> str:
            return shim._put(store, name, content, **options)

        patch.setattr(store, "put", put)

    def _put(self, store: Any, name: str, content: bytes | Path, **options: Any) -> str:
        self._due -= 1
        if self._due == 0:
            self._struck = True
            content = self._spoil(store, name, content)
        etag: str = self._real(store, name, content, **options)
        if name == "CURRENT":
            self._moved()
        return etag

    @contextmanager
    def spoiling(self, n: int, how: str) -> Iterator[Callable[[], bool]]:
        """The n-th put goes wrong. Yields whether it came to that."""
        self._due, self._spoil, self._struck = n, SPOILING[how], False
        try:
            yield lambda: self._struck
        finally:
            self._due = 0


def fails(store: Any, name: str, content: bytes | Path) -> bytes | Path:
    raise Unavailable(f"cannot write {name}: injected")


def ends_half_way(store: Any, name: str, content: bytes | Path) -> bytes | Path:
    """The process dies or the disk fills up in the middle: half a file, under its temporary name, and an error."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    if isinstance(store, FolderStore):
        store._stage(data[: len(data) // 2])
    raise Unavailable(f"cannot write {name}: [Errno {errno.ENOSPC}] injected")


def cut_short(store: Any, name: str, content: bytes | Path) -> bytes | Path:
    """Half of it is written, and nobody says so. The pointer is spared: nothing is left that could tell."""
    return content if name == "CURRENT" else _changed(content, lambda data: data[: len(data) // 2])


def bent(store: Any, name: str, content: bytes | Path) -> bytes | Path:
    """One bit is another one, and nobody says so."""
    return content if name == "CURRENT" else _changed(content, flipped)


SPOILING: dict[str, Callable[[Any, str, bytes | Path], bytes | Path]] = {
    "fails": fails,
    "ends half way": ends_half_way,
    "cut short": cut_short,
    "bent": bent,
}


def _changed(content: bytes | Path, change: Callable[[bytes], bytes]) -> bytes | Path:
    if isinstance(content, bytes):
        return change(content)
    content.write_bytes(change(content.read_bytes()))
    return content


def flipped(data: bytes, place: int | None = None) -> bytes:
    place = len(data) * 2 // 3 if place is None else place % max(1, len(data))
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :] if data else data


def replaced(path: Path, data: bytes) -> None:
    """Other bytes under the same name, as after a bad restore. Whoever has the file open keeps the old bytes."""
    beside = path.with_name(f".{uuid.uuid4().hex}")
    beside.write_bytes(data)
    beside.replace(path)


class Plug:
    """Knows what was brought to the disk. Pulled, everything else is lost."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._files: set[tuple[int, int]] = set()
        self._folders: dict[tuple[int, int], dict[str, int]] = {}
        self._pointer: bytes | None = None
        real = os.fsync

        def fsync(handle: int) -> None:
            real(handle)
            self._synced(handle)

        patch.setattr(os, "fsync", fsync)

    def _synced(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        status = os.fstat(handle)
        key = (status.st_dev, status.st_ino)
        if path.is_dir():
            self._folders[key] = {entry.name: entry.inode() for entry in os.scandir(path)}
            if path == self._root and (path / "CURRENT").exists():
                self._pointer = (path / "CURRENT").read_bytes()
        else:
            self._files.add(key)

    def pull(self) -> int:
        """Names whose folder was not synced go, and so does half of each file that was not. Returns how much was lost."""
        return self._lose(self._root) if self._root.exists() else 0

    def _lose(self, folder: Path) -> int:
        lost = 0
        status = folder.stat()
        safe = self._folders.get((status.st_dev, status.st_ino), {})
        for path in list(folder.iterdir()):
            if path.name in (".tmp", ".lock"):
                continue
            known = path.stat()
            if safe.get(path.name) != known.st_ino:
                lost += 1
                if path.name == "CURRENT" and self._pointer is not None:
                    replaced(path, self._pointer)
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            elif path.is_dir():
                lost += self._lose(path)
            elif (known.st_dev, known.st_ino) not in self._files:
                lost += 1
                data = path.read_bytes()
                replaced(path, data[: len(data) // 2])
        return lost
