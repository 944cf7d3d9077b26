"""Names of files as uris, and which names count. Pure: bytes in, text out, and back without loss.

A file name is bytes and a uri is text, so every name has exactly one uri and every uri at most one name; two uris for
one file would be two documents. Uris stay readable: only what would break a line, a log or UTF-8 is escaped.
"""

from __future__ import annotations

import fnmatch
import mimetypes
import posixpath
import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["Ignore", "media_type", "name_to_text", "path_to_uri", "text_to_name", "uri_to_path"]

_UNSAFE = re.compile("[%\x00-\x1f\x7f-\x9f\u2028\u2029\udc80-\udcff]")
_ESCAPED = re.compile(rb"%([0-9A-F]{2})")

_ADDITIONS = {
    ".adoc": "text/x-asciidoc",
    ".c": "text/x-c",
    ".cfg": "text/plain",
    ".conf": "text/plain",
    ".cpp": "text/x-c++",
    ".csv": "text/csv",
    ".doc": "application/msword",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".eml": "message/rfc822",
    ".epub": "application/epub+zip",
    ".go": "text/x-go",
    ".gz": "application/gzip",
    ".h": "text/x-c",
    ".hpp": "text/x-c++",
    ".ini": "text/plain",
    ".ipynb": "application/x-ipynb+json",
    ".java": "text/x-java",
    ".js": "text/javascript",
    ".jsonl": "application/x-ndjson",
    ".log": "text/plain",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".msg": "application/vnd.ms-outlook",
    ".ndjson": "application/x-ndjson",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".org": "text/x-org",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".py": "text/x-python",
    ".rs": "text/x-rust",
    ".rst": "text/x-rst",
    ".rtf": "application/rtf",
    ".sh": "text/x-sh",
    ".sql": "application/sql",
    ".tex": "text/x-tex",
    ".toml": "application/toml",
    ".ts": "text/x-typescript",
    ".tsv": "text/tab-separated-values",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""What Python's own table lacks, or names differently from one release to the next."""


def name_to_text(name: bytes) -> str:
    """Readable text for the bytes of a name or a path: unicode as it is; `%`, control characters and bad UTF-8 as %XX."""
    text = name.decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(_escape, text) if _UNSAFE.search(text) else text


def text_to_name(text: str) -> bytes:
    """The inverse of `name_to_text`."""
    name = text.encode("utf-8", "surrogatepass")
    return _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), name) if b"%" in name else name


def path_to_uri(root: str, path: bytes) -> str:
    """The uri of the file at `path`, relative to the source's `root`."""
    return root + name_to_text(path)


def uri_to_path(root: str, uri: str) -> bytes | None:
    """The path relative to `root`; None where `path_to_uri` makes no such uri, so that nothing outside has a name."""
    if not uri.startswith(root):
        return None
    path = text_to_name(uri[len(root) :])
    parts = path.split(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in parts) or path_to_uri(root, path) != uri:
        return None
    return path


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


class Ignore:
    """Shell patterns of names that are never indexed. A path is ignored when one of its parts is; case counts."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._match = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)").match

    def name(self, name: bytes) -> bool:
        return self._match(name.decode("utf-8", "surrogateescape")) is not None

    def path(self, path: bytes) -> bool:
        return any(self.name(part) for part in path.split(b"/"))


@lru_cache(maxsize=1)
def _types() -> dict[str, str]:
    """Python's own table and ours, without the system's files: two machines must agree on a document's type."""
    return {**mimetypes.MimeTypes().types_map[True], **_ADDITIONS}


def media_type(name: str) -> str:
    """What the ending of a name (a path, a uri, an object key) suggests; application/octet-stream where it says nothing."""
    return _types().get(posixpath.splitext(name)[1].lower(), "application/octet-stream")
