"""Lists a folder's tree in the byte order of its uris, with the memory of the folders along one path.

Links are not followed and special files not counted. What cannot be listed is remembered and not passed over in
silence: a listing that quietly misses a folder would remove its documents.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator

from pipeline.base.errors import Unavailable
from pipeline.sources.names import Ignore, name_to_text

__all__ = ["GONE", "Walk", "regular_file"]

log = logging.getLogger(__name__)

GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV}
"""What the system says where there is no file of that name (any more), or a link or a socket instead of one."""


def regular_file(path: bytes) -> os.stat_result | None:
    """The regular file at `path`; None where there is none."""
    try:
        status = os.lstat(path)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise Unavailable(f"{name_to_text(path)} cannot be looked at: {error.strerror}") from error
    return status if stat.S_ISREG(status.st_mode) else None


class Walk:
    """One walk below `root`, a path with a slash at its end. Afterwards, `unreadable` says what it had to leave out."""

    def __init__(self, root: bytes, ignore: Ignore) -> None:
        self._root = root
        self._ignore = ignore
        self.unreadable: list[str] = []

    def files(self, start: bytes) -> Iterator[tuple[str, os.stat_result]]:
        """The files below `start` (b"" or a relative path with a slash at its end), by their relative paths as a uri spells them."""
        stack = [iter(self._scan(start))]
        while stack:
            for name, path in stack[-1]:
                if name.endswith("/"):
                    stack.append(iter(self._scan(path)))
                    break
                if (status := regular_file(self._root + path)) is not None:
                    yield name, status
            else:
                stack.pop()

    def _scan(self, folder: bytes) -> list[tuple[str, bytes]]:
        """What counts in one folder, in the order of the uris: as text and as path. Folders end with a slash, as in a uri."""
        found, above = [], name_to_text(folder)
        try:
            with os.scandir(self._root + folder) as entries:
                for entry in entries:
                    name = entry.name
                    if self._ignore.name(name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.append((above + name_to_text(name) + "/", folder + name + b"/"))
                    elif entry.is_file(follow_symlinks=False):
                        found.append((above + name_to_text(name), folder + name))
        except OSError as error:
            if error.errno not in GONE:
                self._leave_out(folder, error)
            return []
        found.sort()
        return found

    def _leave_out(self, folder: bytes, error: OSError) -> None:
        name = name_to_text(self._root + folder)
        log.warning("folder cannot be listed", extra={"action": "folder_unlisted", "folder": name, "reason": error.strerror})
        self.unreadable.append(f"{name} ({error.strerror})")
