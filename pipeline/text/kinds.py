"""What are these bytes, and how are they read? Pure: the first bytes decide, the name only where they cannot.

A name is a claim by whoever dropped the file. A PDF called notes.txt is still a PDF, and a text called scan.pdf is text.
"""

from __future__ import annotations

import codecs
import re
from pathlib import PurePosixPath
from typing import Final

from pipeline.base.errors import DocumentError
from pipeline.base.model import Content

PLAIN: Final = ""
"""Decoded in place, by `decode`."""

ZIP: Final = "application/zip"
"""A zip of some kind; which one, and whether it is safe to open, is found out beside the parser."""

HTML: Final = "text/html"

_SIGNATURES: Final = {b"PK\x03\x04": ZIP, b"PK\x05\x06": ZIP, b"{\\rtf": "application/rtf"}

_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_TYPES: Final = {
    ".doc": "application/msword",
    ".xls": "application/vnd.ms-excel",
    ".ppt": "application/vnd.ms-powerpoint",
    ".msg": "application/vnd.ms-outlook",
}

_IMAGES: Final = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"BM", b"\x00\x00\x01\x00")
_ARCHIVES: Final = (b"\x1f\x8b", b"7z\xbc\xaf'\x1c", b"Rar!\x1a\x07", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")

_PARSED: Final = {HTML: HTML, "application/xhtml+xml": HTML, "message/rfc822": "message/rfc822"}
"""Types that are text but are wanted without their markup, and the type to parse them as."""

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SAMPLE: Final = 64 * 2**10
"""Bytes that are looked at for NULs and for the encoding; more would tell the same."""

_BEYOND_ASCII: Final = re.compile("[^\x00-\x7f]")
_STRANGE: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffd]")
"""Characters that text hardly has; more than two in a hundred, and it is none."""


def recognise(content: Content) -> str:
    """The media type to parse `content` as, or PLAIN. Raises DocumentError where there is nothing we could read."""
    data, head = content.data, content.data[:1024]
    if not data.strip(b" \t\r\n"):
        raise DocumentError("the document is empty")
    if head.lstrip().startswith(b"%PDF-") or (content.media_type == "application/pdf" and b"%PDF-" in head):
        return "application/pdf"
    if head.startswith(_OLE):
        return _ole_type(content)
    for signature, media_type in _SIGNATURES.items():
        if head.startswith(signature):
            return media_type
    _refuse(content.media_type, head)
    return _text_type(content, head)


def _ole_type(content: Content) -> str:
    if "EncryptedPackage".encode("utf-16-le") in content.data:
        raise DocumentError("the document is encrypted", hint="save it without a password")
    suffix = PurePosixPath(content.uri).suffix.lower()
    if suffix not in _OLE_TYPES:
        raise DocumentError("the document is an OLE file of an unknown kind", hint=f"name it with one of {', '.join(_OLE_TYPES)}")
    return _OLE_TYPES[suffix]


def _refuse(media_type: str, head: bytes) -> None:
    if media_type.startswith("image/") or (head.startswith(_IMAGES) and b"\0" in head) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise DocumentError("the document is an image, and text in images is not read")
    if head.startswith(_ARCHIVES):
        raise DocumentError("the document is an archive", hint="drop the files that are in it")
    if media_type.startswith(("audio/", "video/")):
        raise DocumentError(f"a document of the type {media_type} has no text")


def _text_type(content: Content, head: bytes) -> str:
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:15].lower()
    if content.media_type in _PARSED:
        return _PARSED[content.media_type]
    return HTML if start.startswith((b"<!doctype html", b"<html")) else PLAIN


def decode(data: bytes) -> str:
    """The text in `data`. UTF-8 where it is valid, else what its mark says, else the likeliest legacy encoding."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _clean(data.decode(encoding, "replace"))
    if b"\0" in data[:_SAMPLE]:
        raise DocumentError("the document is not text, and of no type that can be read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _clean(_decode_damaged(data, error.start) or _decode_legacy(data, error.start))


def _decode_damaged(data: bytes, first_error: int) -> str:
    """UTF-8 with a few bad bytes, or cut off in the middle of a character; empty where it is more likely something else.

    Other encodings hardly ever look like UTF-8 by chance, so more good characters than bad bytes settle it.
    """
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = len(_BEYOND_ASCII.findall(text)) - bad
    cut_off = first_error >= len(data) - 3
    return text.rstrip("\ufffd") if good > 2 * (bad - cut_off) else ""


def _decode_legacy(data: bytes, first_error: int) -> str:
    from chardetng_py import detect

    start = max(0, first_error - _SAMPLE // 2)
    text = data.decode(detect(data[start : start + _SAMPLE]), "replace")
    sample = text[:_SAMPLE]
    if len(_STRANGE.findall(sample)) > len(sample) // 50:
        raise DocumentError("the document is not text, and of no type that can be read")
    return text


def _clean(text: str) -> str:
    """NULs end strings in half the programs that meet them."""
    return text.replace("\0", "") if "\0" in text else text
