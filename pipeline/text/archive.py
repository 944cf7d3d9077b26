"""Which document is this zip, and may it be opened? Pure, but hungry: the directory of a hostile zip can fill a gigabyte.

So it runs where the parser runs, in a child process with limits. It believes the sizes that the directory declares; a zip
that lies about them meets the parser's own limits, and then the child's.
"""

from __future__ import annotations

import io
import zipfile
from typing import Final

from pipeline.base.errors import DocumentError

_MAX_UNPACKED: Final = 512 * 2**20
"""Bytes that one document may declare; a workbook of a million rows takes about 200 MiB."""

_MAX_RATIO: Final = 150
"""Unpacked bytes per packed byte: office files stay under 50, deflate's limit is 1,032."""

_RATIO_MATTERS: Final = 16 * 2**20
"""Bytes: below this size, even the worst ratio does no harm."""

_MAX_MEMBERS: Final = 20_000

_OFFICE: Final = {
    "word/document.xml": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xl/workbook.xml": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xl/workbook.bin": "application/vnd.ms-excel.sheet.binary.macroEnabled.12",
    "ppt/presentation.xml": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}

_DECLARED: Final = (
    "application/epub+zip",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
)
"""What OpenDocument and EPUB write into their first member, `mimetype`."""


def document_type(data: bytes) -> str:
    """The media type of the document in this zip. Raises DocumentError where it is none, damaged, encrypted or a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check(members, len(data))
            return _media_type(archive, {member.filename for member in members})
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise DocumentError("the document is a damaged or incomplete zip file") from error


def _check(members: list[zipfile.ZipInfo], packed: int) -> None:
    if any(member.flag_bits & 1 for member in members):
        raise DocumentError("the document is encrypted", hint="save it without a password")
    unpacked = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS or unpacked > _MAX_UNPACKED or (unpacked > _RATIO_MATTERS and unpacked > packed * _MAX_RATIO):
        raise DocumentError(f"the document would unpack to {unpacked:,} bytes in {len(members):,} files, which looks like a zip bomb")


def _media_type(archive: zipfile.ZipFile, names: set[str]) -> str:
    for name, media_type in _OFFICE.items():
        if name in names:
            return media_type
    if "mimetype" in names:
        with archive.open("mimetype") as member:
            declared = member.read(100).decode("ascii", "replace").strip()
        if declared in _DECLARED:
            return declared
    raise DocumentError("the document is an archive", hint="drop the files that are in it")
