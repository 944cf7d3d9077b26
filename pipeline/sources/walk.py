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

from pipeline.errors import Unavailable
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

    def files(self, start: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Relative paths of the files below `start` (b"" or a relative path with a slash at its end)."""
        stack = [iter(self._scan(start))]
        while stack:
            path = next(stack[-1], None)
            if path is None:
                stack.pop()
            elif path.endswith(b"/"):
                stack.append(iter(self._scan(path)))
            elif (status := regular_file(self._root + path)) is not None:
                yield path, status

    def _scan(self, folder: bytes) -> list[bytes]:
        """Paths of what counts in one folder, ordered as their uris; folders end with a slash, as in a uri."""
        found = []
        try:
            with os.scandir(self._root + folder) as entries:
                for entry in entries:
                    if self._ignore.name(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        found.append(entry.name + b"/")
                    elif entry.is_file(follow_symlinks=False):
                        found.append(entry.name)
        except OSError as error:
            if error.errno not in GONE:
                self._leave_out(folder, error)
            return []
        return [folder + name for name in sorted(found, key=name_to_text)]

    def _leave_out(self, folder: bytes, error: OSError) -> None:
        name = name_to_text(self._root + folder)
        log.warning("folder cannot be listed", extra={"action": "folder_unlisted", "folder": name, "reason": error.strerror})
        self.unreadable.append(f"{name} ({error.strerror})")
