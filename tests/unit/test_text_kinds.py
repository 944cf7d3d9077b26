"""What bytes are, and how plain ones are decoded."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import DocumentError
from pipeline.base.model import Content
from pipeline.text import extractor_id, splitter_id
from pipeline.text.archive import document_type
from pipeline.text.kinds import HTML, PLAIN, ZIP, decode, recognise


def content(data: bytes, name: str = "a", media_type: str = "") -> Content:
    return Content(f"file:///inbox/{name}", "1", data, media_type, 0.0)


def zipped(**members: bytes) -> bytes:
    """A ZIP whose bytes depend on `members` alone: it names tests, and every worker must collect the same ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name.replace("__", "/").replace("_xml", ".xml"))  # of 1980, not of now
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "media_type", "expected"),
    [
        (b"plain words", "a.txt", "text/plain", PLAIN),
        (b"plain words", "a.pdf", "application/pdf", PLAIN),
        (b"# title", "a.md", "text/markdown", PLAIN),
        (b"a,b\n1,2", "a.csv", "text/csv", PLAIN),
        (b'{"a": 1}', "a.json", "application/json", PLAIN),
        (b"<?xml version='1.0'?><a>b</a>", "a.xml", "text/xml", PLAIN),
        (b"BMW is a maker of cars", "a.txt", "text/plain", PLAIN),
        (b"the bytes %PDF- open a PDF", "a.txt", "text/plain", PLAIN),
        (b"<p>x</p>", "a.html", "text/html", HTML),
        (b"<p>x</p>", "a.xhtml", "application/xhtml+xml", HTML),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><p>x", "a", "", HTML),
        (b"From: a@b.c\n\nx", "a.eml", "message/rfc822", "message/rfc822"),
        (b"%PDF-1.7 ...", "notes.txt", "text/plain", "application/pdf"),
        (b"mail junk before\n%PDF-1.7 ...", "a.pdf", "application/pdf", "application/pdf"),
        (b"{\\rtf1 x}", "a.doc", "application/msword", "application/rtf"),
        (b"PK\x03\x04....", "a.docx", "", ZIP),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "A.DOC", "", "application/msword"),
    ],
)
def test_the_bytes_decide_and_the_name_only_where_they_cannot(data: bytes, name: str, media_type: str, expected: str) -> None:
    assert recognise(content(data, name, media_type)) == expected


@pytest.mark.parametrize(
    ("data", "name", "media_type", "reason"),
    [
        (b"", "a.txt", "text/plain", "is empty"),
        (b" \r\n\t ", "a.txt", "text/plain", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.txt", "text/plain", "is an image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a", "", "is an image"),
        (b"<svg><!ENTITY a '&b;&b;'></svg>", "a.svg", "image/svg+xml", "is an image"),
        (b"\x1f\x8b\x08\0", "a.gz", "", "is an archive"),
        (b"ID3\x03", "a.mp3", "audio/mpeg", "has no text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "a.docx", "", "is encrypted"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "a.db", "", "unknown kind"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(data: bytes, name: str, media_type: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        recognise(content(data, name, media_type))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1"])
@pytest.mark.parametrize("text", ["déjà vu", "Ein Bäcker in München bäckt Brot", "café"])
def test_western_text_is_readable_in_every_encoding(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("it’s “quoted” — for 5 €", "cp1252"),
        ("Привет мир, как дела сегодня", "cp1251"),
        ("Привет мир, как дела сегодня, хорошо", "koi8-r"),
        ("こんにちは世界。今日はいい天気です", "shift_jis"),
        ("今天天气很好，我们去公园散步吧。", "gb18030"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy", "cp1250"),
    ],
)
def test_legacy_encodings_are_recognised(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == text


def test_the_encoding_is_found_where_the_first_megabyte_is_ascii() -> None:
    assert decode(b"plain words " * 100_000 + "déjà vu".encode("cp1252")).endswith("déjà vu")


def test_utf8_cut_off_in_the_middle_of_a_character_loses_that_character_only() -> None:
    assert decode("Tschüss, schöne Grüße aus Köln, ö".encode()[:-1]) == "Tschüss, schöne Grüße aus Köln, "


def test_one_bad_byte_does_not_turn_utf8_into_something_else() -> None:
    assert decode("Grüße ".encode() * 50 + b"\xff" + "Grüße".encode()) == "Grüße " * 50 + "\ufffdGrüße"


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\x01\0\0\0", b"text\0with NUL", bytes(range(1, 256)) * 20])
def test_binary_data_is_not_taken_for_text(data: bytes) -> None:
    with pytest.raises(DocumentError, match="not text"):
        decode(data)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decision(data: bytes) -> None:
    for name, media_type in (("a", ""), ("a.doc", "application/msword"), ("a.html", "text/html")):
        with suppress(DocumentError):  # anything else fails the test
            if recognise(content(data, name, media_type)) == PLAIN:
                assert "\0" not in decode(data)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1))
def test_utf8_comes_back_as_it_is(text: str) -> None:
    assert decode(text.encode()) == text


def test_office_and_opendocument_files_are_told_apart_by_their_members() -> None:
    assert document_type(zipped(word__document_xml=b"<w/>")).endswith("wordprocessingml.document")
    assert document_type(zipped(xl__workbook_xml=b"<w/>")).endswith("spreadsheetml.sheet")
    assert document_type(zipped(mimetype=b"application/epub+zip")) == "application/epub+zip"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (zipped(letter=b"x"), "is an archive"),
        (zipped(mimetype=b"application/zip"), "is an archive"),
        (zipped(word__document_xml=b"x" * 50)[:60], "damaged or incomplete"),
        (b"PK\x03\x04junk", "damaged or incomplete"),
        (zipped(word__document_xml=b"a" * 40_000_000), "zip bomb"),
    ],
)
def test_other_zips_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        document_type(data)


def test_an_encrypted_zip_is_refused() -> None:
    data = bytearray(zipped(word__document_xml=b"secret"))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    with pytest.raises(DocumentError, match="encrypted"):
        document_type(bytes(data))


def test_the_recipe_names_versions_and_window() -> None:
    assert extractor_id().startswith("kreuzberg-4.")
    assert splitter_id(256) != splitter_id(128)
