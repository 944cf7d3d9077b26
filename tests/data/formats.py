"""Small files of many formats, written by hand, so that each of their faults can be put in on purpose. Deterministic."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: two runs write the same bytes."""

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TEXT_URN = "urn:oasis:names:tc:opendocument:xmlns:text:1.0"
OFFICE_URN = "urn:oasis:names:tc:opendocument:xmlns:office:1.0"

Members = Mapping[str, str | bytes]


def zipped(members: Members, *, stored: Sequence[str] = ()) -> bytes:
    """A zip of these members, in this order; those in `stored` are not compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, EPOCH)
            archive.writestr(info, data, zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# Office -----------------------------------------------------------------------------------------------------------


def docx(words: str, *, declaration: str = "", relations: str = "", extra: Members | None = None) -> bytes:
    """A Word document of one paragraph."""
    body = f"<w:body><w:p><w:r><w:t>{words}</w:t></w:r></w:p></w:body>"
    document = f'<?xml version="1.0"?>{declaration}<w:document xmlns:w="{WORD}">{body}</w:document>'
    members: dict[str, str | bytes] = {"[Content_Types].xml": "<Types/>", "word/document.xml": document}
    if relations:
        members["word/_rels/document.xml.rels"] = f'<Relationships xmlns="{RELATIONS}">{relations}</Relationships>'
    return zipped({**members, **(extra or {})})


def xlsx(rows: str, *, declaration: str = "", dimension: str = "A1:B2") -> bytes:
    """A workbook of one sheet."""
    sheet = (
        f'<?xml version="1.0"?>{declaration}<worksheet xmlns="{SHEET}"><dimension ref="{dimension}"/>'
        f"<sheetData>{rows}</sheetData></worksheet>"
    )
    relation = f'<Relationship Id="rId1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    root = f'<Relationship Id="rId1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    sheets = '<sheets><sheet name="one" sheetId="1" r:id="rId1"/></sheets>'
    return zipped(
        {
            "[Content_Types].xml": "<Types/>",
            "_rels/.rels": f'<Relationships xmlns="{RELATIONS}">{root}</Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{OFFICE}">{sheets}</workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{RELATIONS}">{relation}</Relationships>',
            "xl/worksheets/sheet1.xml": sheet,
        }
    )


def cell(place: str, words: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{words}</t></is></c>'


def odt(words: str, *, declaration: str = "") -> bytes:
    """An OpenDocument text of one paragraph."""
    body = f"<office:body><office:text><text:p>{words}</text:p></office:text></office:body>"
    namespaces = f'xmlns:office="{OFFICE_URN}" xmlns:text="{TEXT_URN}"'
    content = f'<?xml version="1.0"?>{declaration}<office:document-content {namespaces}>{body}</office:document-content>'
    return zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content}, stored=["mimetype"])


def epub(page: str) -> bytes:
    """A book of one page."""
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/><manifest>'
        '<item id="p" href="p.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="p"/></spine></package>'
    )
    members = {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "b.opf": package, "p.xhtml": page}
    return zipped(members, stored=["mimetype"])


# XML --------------------------------------------------------------------------------------------------------------


def laughs(root: str) -> str:
    """Ten entities, each ten times the one before: &j; is a thousand million laughs."""
    nested = "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    return f'<!DOCTYPE {root} [<!ENTITY a "ha">{nested}]>'


def quadratic(root: str) -> str:
    """One entity of 100,000 characters, to be named 10,000 times."""
    return f'<!DOCTYPE {root} [<!ENTITY q "{"q" * 100_000}">]>'


def outside(root: str) -> str:
    """An entity that is a file of the machine that reads it."""
    return f'<!DOCTYPE {root} [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


# PDF --------------------------------------------------------------------------------------------------------------


def pdf(objects: Sequence[bytes], *, trailer: bytes = b"", xref: bool = True) -> bytes:
    """A PDF of these objects, numbered from 1; the first one is the catalogue."""
    data, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    if xref:
        data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
        data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(data) + b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)


def stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<</Length %d%s>>\nstream\n%s\nendstream" % (len(data), extra, data)


def shown(words: str) -> bytes:
    """A page's content that shows words."""
    return b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % words.encode("latin-1")


def pages(texts: Sequence[str]) -> bytes:
    """A PDF with a page for each text."""
    numbers = range(4, 4 + 2 * len(texts), 2)
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(texts), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in zip(numbers, texts, strict=True):
        objects.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>" % (number + 1))
        objects.append(stream(shown(text)))
    return pdf(objects)


def one_page(content: bytes, *, page: bytes = b"", tree: bytes = b"/Count 1/Kids[4 0 R]", trailer: bytes = b"") -> bytes:
    """A PDF of one page with this content object, and with whatever is to be wrong about its page or its page tree."""
    return pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages%s>>" % tree,
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents 5 0 R%s>>" % page,
            content,
        ],
        trailer=trailer,
    )


# Images -----------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """An image that claims this size and holds one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
