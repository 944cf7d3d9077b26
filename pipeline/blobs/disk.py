"""What writing to a local disk takes: folders with our mode, fsync, and the system's refusals in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.base.errors import ConfigurationError, Unavailable

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
STALE_AFTER: Final = 86_400.0
"""Seconds. No single write takes a day, so a temporary file of that age belongs to a process that died."""

_NOT_PERMITTED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER: Final = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Tell apart what an operator must change and what may pass by itself."""
    try:
        yield
    except OSError as error:
        message = f"cannot {action} {path}: {error.strerror or error}"
        if error.errno in _NOT_PERMITTED:
            raise ConfigurationError(message, hint=f"let user {os.geteuid()} read and write the folder, or choose another") from error
        if error.errno in _NOT_A_FOLDER:
            raise ConfigurationError(message, hint="choose a path whose parts are folders and not too long") from error
        raise Unavailable(message, hint="check free space and health of the disk") from error


def make_folder(folder: Path) -> None:
    """As `mkdir -p`, which in pathlib gives our mode to the last folder only."""
    try:
        folder.mkdir(FOLDER_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(folder.parent)
        with suppress(FileExistsError):  # not `exist_ok`, which looks again and fails where a pruned folder has just gone
            folder.mkdir(FOLDER_MODE)


def fsync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
