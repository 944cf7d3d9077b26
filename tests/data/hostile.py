"""Documents that nobody wants to receive, and what has to become of each: searchable, a dead letter with a reason, or none at all.

    python -m tests.data.hostile FOLDER

writes them all. The same bytes under the same names every time; what one machine cannot make (a device, say) is left out.
The outcomes hold under LIMITS, which are small so that a bomb needs no gigabytes to be one.
"""

from __future__ import annotations

import codecs
import gzip
import json
import os
import random
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.data import formats as f
from tests.data.stated import Absent, Dead, Kind, Searchable, kind_of, later, write_to

LIMITS = {
    "max_document_bytes": 4 * 2**20,
    "max_extracted_chars": 2_000_000,
    "extract_seconds": 5,
    "extract_memory_bytes": 2**30,
    "max_attempts": 2,
}
"""Settings (see pipeline.base.settings) under which the outcomes below are stated."""


NOT_TEXT = Dead("not text")
NO_TEXT = Dead("no text")
ARCHIVE = Dead("is an archive")
IMAGE = Dead("is an image")
ENCRYPTED = Dead("is encrypted")
BOMB = Dead("zip bomb")
TOO_LONG = Dead("characters of text, and the limit is")
DAMAGED = Dead("damaged or incomplete")
BAD_PDF = Dead("cannot be read as application/pdf")

CYRILLIC = "Маяк стоит на скале, и его свет виден за двадцать морских миль. " * 4
JAPANESE = "灯台の光は二十海里の彼方からも見えるのである。漁師たちは夜ごとにそれを頼りに港へ帰る。" * 4
GERMAN = "Die Straße führt über die Brücke zu den Gärten, wo die Äpfel süß und die Öfen heiß sind. " * 4


def encodings() -> Iterator[Kind]:
    yield kind_of("UTF-16 without its mark", "utf16-bare.txt", "plain words".encode("utf-16-le"), NOT_TEXT)
    yield kind_of("UTF-16 with its mark", "utf16.txt", GERMAN.encode("utf-16"), Searchable("Straße"))
    yield kind_of("UTF-16, big end first", "utf16-be.txt", codecs.BOM_UTF16_BE + GERMAN.encode("utf-16-be"), Searchable("Straße"))
    yield kind_of("UTF-16 with half a character", "utf16-odd.txt", "odd words".encode("utf-16") + b"x", Searchable("odd words"))
    yield kind_of("UTF-16 with lone surrogates", "utf16-lone.txt", codecs.BOM_UTF16_LE + b"a\0\x00\xd8b\0\x00\xdcc\0", Searchable("a"))
    yield kind_of("UTF-32 with its mark", "utf32.txt", GERMAN.encode("utf-32"), Searchable("Straße"))
    yield kind_of("Latin-1", "latin1.txt", GERMAN.encode("latin-1"), Searchable("Straße"))
    yield kind_of("Windows-1251", "cp1251.txt", CYRILLIC.encode("cp1251"), Searchable("Маяк"))
    yield kind_of("Shift JIS", "sjis.txt", JAPANESE.encode("shift-jis"), Searchable("灯台"))
    yield kind_of("two encodings in one file", "mixed.txt", GERMAN.encode() + GERMAN.encode("latin-1"), Searchable("Straße"))
    yield kind_of("UTF-8 cut off within a character", "cut.txt", (GERMAN + "ü").encode()[:-1], Searchable("Straße"))
    yield kind_of("surrogates spelled as UTF-8", "cesu.txt", b"before " + b"\xed\xa0\xbd\xed\xb8\x80" + b" after", Searchable("before"))
    yield kind_of("overlong UTF-8", "overlong.txt", b"a path \xc0\xae\xc0\xae\xc0\xaf and words", Searchable("and words"))
    yield kind_of("nothing but a mark", "bom.txt", codecs.BOM_UTF8, NO_TEXT)
    yield kind_of("nothing but a mark of UTF-16", "bom16.txt", codecs.BOM_UTF16_LE, NO_TEXT)
    yield kind_of("a mark within the text", "bom-within.txt", "before\ufeffafter", Searchable("before"))


def characters() -> Iterator[Kind]:
    yield kind_of("empty", "empty.txt", b"", Dead("is empty"))
    yield kind_of("one byte", "one.txt", b"x", Searchable("x"))
    yield kind_of("one NUL", "nul.txt", b"\0", NOT_TEXT)
    yield kind_of("filled with NULs", "nuls.txt", bytes(100_000), NOT_TEXT)
    yield kind_of("a NUL far behind", "late-nul.txt", b"plain words " * 10_000 + b"\0 end", Searchable("plain words"))
    yield kind_of("white space only", "space.txt", b" \t\r\n" * 1000, Dead("is empty"))
    yield kind_of("unusual white space only", "nbsp.txt", "\u00a0\u2003\u3000" * 100, NO_TEXT)
    yield kind_of("zero-width characters only", "zero.txt", "\u200b\u200d\u2060" * 100, Searchable())
    yield kind_of("combining characters only", "combining.txt", "\u0301\u0308\u0323" * 1000, Searchable())
    yield kind_of("a letter with a thousand accents", "zalgo.txt", "a" + "\u0301" * 1000 + " words", Searchable("words"))
    yield kind_of("right-to-left overrides", "rtl.txt", "\u202eneddih\u202c words \u2066\u2067", Searchable("words"))
    yield kind_of("emoji only", "emoji.txt", "👩‍👩‍👧‍👦🏴‍☠️🇪🇺" * 50, Searchable("🇪🇺"))
    yield kind_of("control characters", "control.txt", bytes(range(1, 32)) + b" words", Searchable("words"))
    yield kind_of("orders to a terminal", "escape.log", b"\x1b]0;owned\x07\x1b[2J words", Searchable("words"))
    yield kind_of("private and unassigned characters", "private.txt", "\ue000\ufffe\U0010ffff words", Searchable("words"))
    yield kind_of("random bytes called text", "noise.txt", random.Random(1).randbytes(5000), NOT_TEXT)
    yield kind_of("a megabyte of one character", "same.txt", b"a" * 1_000_000, Searchable("aaa"))
    yield kind_of("a line of a megabyte", "line.txt", b"word " * 200_000, Searchable("word"))
    yield kind_of("a megabyte of empty lines and one word", "lines.txt", b"\n" * 1_000_000 + b"word", Searchable("word"))
    yield kind_of("carriage returns only", "mac.txt", b"one\rtwo\rthree", Searchable("two"))
    yield kind_of("a megabyte of wide characters without a space", "wide.txt", "灯" * 300_000, Searchable("灯"))
    yield kind_of("too many characters", "long.txt", b"long words " * 200_000, TOO_LONG)


def structures() -> Iterator[Kind]:
    yield kind_of("JSON nested 100,000 deep", "deep.json", b"[" * 100_000 + b"]" * 100_000, Searchable("[["))
    yield kind_of("JSON that breaks off", "broken.json", b'{"words": [1, 2', Searchable("words"))
    yield kind_of("JSON lines of all kinds", "odd.jsonl", b'{"a":1}\nnot json\n\n[]\n"words"', Searchable("words"))
    yield kind_of("a notebook that is none", "broken.ipynb", b'{"cells": "words"}', Searchable("words"))
    yield kind_of(
        "YAML that laughs", "laughs.yaml", "a: &a [ha]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(50)), Searchable("ha")
    )
    yield kind_of("Markdown nested 10,000 deep", "deep.md", b"> " * 10_000 + b"words", Searchable("words"))
    yield kind_of("Markdown of brackets", "brackets.md", b"[" * 50_000 + b"words", Searchable("words"))
    yield kind_of("a table of 100,000 columns", "wide.csv", b",".join(b"c%d" % n for n in range(100_000)), Searchable("c99999"))
    yield kind_of("a table with a quote that never ends", "quote.csv", b'a,"b\nc,words\n' * 1000, Searchable("words"))
    yield kind_of("a table of formulas", "formula.csv", b'=cmd|"/c calc"!A1,words', Searchable("words"))
    yield kind_of("a program with a syntax error", "broken.py", b"def f(:\n  words = = 1\n", Searchable("words"))
    yield kind_of("a shell script", "run.sh", b"#!/bin/sh\nrm -rf / # words\n", Searchable("words"))
    yield kind_of("XML that laughs", "laughs.xml", f.laughs("r") + "<r>&j;</r>", Searchable("ENTITY", never="hahahaha"))
    yield kind_of("XML that reads a file", "outside.xml", f.outside("r") + "<r>&x;</r>", Searchable("SYSTEM"))
    yield kind_of("an SVG that laughs", "laughs.svg", f.laughs("svg") + "<svg><text>&j;</text></svg>", IMAGE)


def pages() -> Iterator[Kind]:
    html = "<html><body>"
    yield kind_of("HTML without text", "script.html", b"<html><script>var words</script><style>a{}</style></html>", NO_TEXT)
    yield kind_of("HTML nested 100,000 deep", "deep.html", b"<html>" + b"<div>" * 100_000 + b"words", NO_TEXT)
    yield kind_of("HTML with a comment that never ends", "comment.html", html + "words<!-- " + "x" * 100_000, Searchable("words"))
    yield kind_of(
        "HTML with an attribute of a megabyte", "attribute.html", html + f'<p title="{"x" * 1_000_000}">words', Searchable("words")
    )
    yield kind_of("HTML that lies about its encoding", "charset.html", f'<html><meta charset="utf-7"><p>{GERMAN}', Searchable("Straße"))
    yield kind_of("HTML in Latin-1", "latin1.html", f"<html><p>{GERMAN}".encode("latin-1"), Searchable("Straße"))
    yield kind_of("HTML of unclosed tables", "tables.html", html + "<table><tr><td>" * 2000 + "words", Searchable("---"))
    yield kind_of(
        "HTML with frames and entities", "frames.html", html + '<iframe src="file:///etc/passwd"></iframe>&#0;words', Searchable("words")
    )
    yield kind_of("XHTML that laughs", "laughs.xhtml", f.laughs("html") + f"{html}<p>words &j;</p>", Searchable("words", never="hahahaha"))
    yield kind_of("HTML called a Word document", "page.docx", f"{html}<p>words</p>", Searchable("words"))
    yield kind_of("a tag of a megabyte", "tag.html", b"<html><p>words</p><" + b"x" * 1_000_000, Searchable("words"))


def mail() -> Iterator[Kind]:
    head = "From: a@example.org\r\nTo: b@example.org\r\nSubject: a letter\r\nMIME-Version: 1.0\r\n"
    part = (
        "--b\r\nContent-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n"
        'Content-Disposition: attachment; filename="../x.zip"\r\n\r\n'
    )
    attached = b64encode(f.zipped({"a.txt": "attached"})).decode()
    mixed = 'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n'
    yield kind_of("a letter with an archive attached", "attached.eml", f"{head}{mixed}{part}{attached}\r\n--b--\r\n", Searchable("words"))
    yield kind_of("letters within letters", "nested.eml", _nested_letters(head, 100), Searchable("a letter"))
    yield kind_of(
        "a letter with malformed headers", "headers.eml", b"Subject: =?utf-8?B?//8=?=\r\n: :\r\nFrom\r\n\r\nwords", Searchable("words")
    )
    yield kind_of("a letter whose parts never end", "parts.eml", f"{head}{mixed}--b\r\n" * 3, Searchable("words"))
    yield kind_of(
        "a letter with broken base64", "base64.eml", f"{head}Content-Transfer-Encoding: base64\r\n\r\n!!!!", Searchable("a letter")
    )
    yield kind_of(
        "a letter with a header of a megabyte", "header.eml", f"{head}X-Long: {'x' * 1_000_000}\r\n\r\nwords", Searchable("words")
    )


def _nested_letters(head: str, depth: int) -> str:
    return f"{head}Content-Type: message/rfc822\r\n\r\n" * depth + f"{head}\r\nwords"


def archives() -> Iterator[Kind]:
    yield kind_of("a zip", "files.zip", f.zipped({"a.txt": "words"}), ARCHIVE)
    yield kind_of("a zip of a zip of a zip", "nested.zip", f.zipped({"b.zip": f.zipped({"c.zip": f.zipped({"a.txt": "x"})})}), ARCHIVE)
    yield kind_of("a zip that wants to leave its folder", "slip.zip", f.zipped({"../../evil.txt": "words"}), ARCHIVE)
    yield kind_of("a zip that unpacks to 100 megabytes", "bomb.zip", later(lambda: f.zipped({"a": bytes(100_000_000)})), BOMB)
    yield kind_of("a zip of 25,000 files", "many.zip", later(lambda: f.zipped({str(n): b"" for n in range(25_000)})), BOMB)
    yield kind_of("a zip cut short", "cut.zip", f.zipped({"a.txt": "words" * 100})[:-30], DAMAGED)
    yield kind_of("an empty zip", "empty.zip", f.zipped({}), ARCHIVE)
    yield kind_of("an encrypted zip", "secret.zip", _encrypted(f.zipped({"a.txt": "words"})), ENCRYPTED)
    yield kind_of("a gzip bomb", "bomb.gz", later(lambda: gzip.compress(bytes(50_000_000), mtime=0)), ARCHIVE)
    yield kind_of("a gzip called text", "gzip.txt", gzip.compress(b"words", mtime=0), ARCHIVE)
    yield kind_of("a tar", "files.tar", f.tarred({"../a.txt": b"words"}), NOT_TEXT)
    yield kind_of("the head of a 7z", "files.7z", b"7z\xbc\xaf'\x1c\0\4" + bytes(100), ARCHIVE)
    yield kind_of("the head of a RAR", "files.rar", b"Rar!\x1a\x07\x01\0" + bytes(100), ARCHIVE)


def _encrypted(data: bytes) -> bytes:
    """The same zip, whose directory says that its first member is encrypted."""
    place = data.index(b"PK\x01\x02") + 8
    return data[:place] + b"\1" + data[place + 1 :]


def office() -> Iterator[Kind]:
    link = f'<Relationship Id="r1" Type="{f.OFFICE}/attachedTemplate" Target="file:///etc/passwd" TargetMode="External"/>'
    yield kind_of("a Word bomb", "bomb.docx", later(lambda: f.docx("a" * 60_000_000)), BOMB)
    yield kind_of("a Word document that laughs", "laughs.docx", f.docx("&j;", declaration=f.laughs("x")), NO_TEXT)
    yield kind_of(
        "a Word document that grows with the square", "square.docx", f.docx("&q;" * 10_000, declaration=f.quadratic("x")), NO_TEXT
    )
    yield kind_of("a Word document that reads a file", "outside.docx", f.docx("words &x;", declaration=f.outside("x")), Searchable("words"))
    yield kind_of("a Word document with a template elsewhere", "template.docx", f.docx("words", relations=link), Searchable("words"))
    yield kind_of(
        "a Word document with macros", "macro.docm", f.docx("words", extra={"word/vbaProject.bin": b"\xd0\xcf\x11"}), Searchable("words")
    )
    yield kind_of("a Word document cut short", "cut.docx", f.docx("words")[:-30], DAMAGED)
    yield kind_of("a Word document without text", "blank.docx", f.docx(""), NO_TEXT)
    yield kind_of("a Word document of broken XML", "broken.docx", f.docx("words</w:p>"), Dead("cannot be read"))
    yield kind_of("a Word document in a folder above", "slip.docx", f.docx("words", extra={"../../evil": "x"}), Searchable("words"))
    yield kind_of("a workbook that laughs", "laughs.xlsx", f.xlsx(f"<row>{f.cell('A1', '&j;')}</row>", declaration=f.laughs("x")), NO_TEXT)
    huge = f'<row r="1">{f.cell("A1", "words")}</row><row r="1048576">{f.cell("XFD1048576", "end")}</row>'
    yield kind_of("a workbook of huge dimensions", "huge.xlsx", f.xlsx(huge, dimension="A1:XFD1048576"), Searchable("end"))
    yield kind_of(
        "a presentation without slides",
        "empty.pptx",
        f.zipped({"[Content_Types].xml": "<Types/>", "ppt/presentation.xml": "<p/>"}),
        NO_TEXT,
    )
    yield kind_of("an OpenDocument text", "minimal.odt", f.odt("words"), Searchable("words"))
    yield kind_of("an OpenDocument text that laughs", "laughs.odt", f.odt("&j;", declaration=f.laughs("x")), Dead("DTD"))
    yield kind_of(
        "a book that laughs", "laughs.epub", f.epub(f.laughs("html") + "<html><p>&j;</p></html>"), Searchable("&j;", never="haha")
    )
    yield kind_of("a book of one page", "minimal.epub", f.epub("<html><body><p>words</p></body></html>"), Searchable("words"))
    yield kind_of("RTF nested 10,000 deep", "deep.rtf", rb"{\rtf1 " + b"{" * 10_000 + b"words" + b"}" * 10_000 + b"}", Searchable("words"))
    yield kind_of("RTF that breaks off", "cut.rtf", rb"{\rtf1\ansi words \bin999999999", Searchable("words"))
    yield kind_of(
        "the head of an old Word document",
        "old.doc",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        Dead("cannot be read as application/msword"),
    )
    yield kind_of(
        "an OLE file of no known kind", "old.bin", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(700), Dead("OLE file of an unknown kind")
    )


def portable() -> Iterator[Kind]:
    good, text = f.stream(f.shown("words on a page")), "words on a page"
    locked = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<" + b"ab" * 32 + b">/U<" + b"cd" * 32 + b">>>/ID[<00><00>]"
    yield kind_of("a PDF called text", "scan.txt", f.one_page(good), Searchable(text))
    yield kind_of("text called a PDF", "text.pdf", b"plain words", Searchable("plain words"))
    yield kind_of("a PDF after other bytes", "late.pdf", b"\0junk\n" * 10 + f.one_page(good), Searchable(text))
    yield kind_of("the head of a PDF", "head.pdf", b"%PDF-1.7\n", BAD_PDF)
    yield kind_of("a PDF cut short", "cut.pdf", f.one_page(good)[:300], BAD_PDF)
    yield kind_of(
        "a PDF without its table",
        "no-xref.pdf",
        f.pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 0/Kids[]>>"], xref=False),
        BAD_PDF,
    )
    yield kind_of("a PDF whose pages go in a circle", "circle.pdf", f.one_page(good, tree=b"/Count 1/Kids[2 0 R]"), NO_TEXT)
    yield kind_of(
        "a PDF that claims a thousand million pages", "count.pdf", f.one_page(good, tree=b"/Count 1000000000/Kids[4 0 R]"), Searchable(text)
    )
    yield kind_of("an encrypted PDF", "secret.pdf", f.one_page(good, trailer=locked), ENCRYPTED)
    yield kind_of("a PDF bomb", "bomb.pdf", later(_pdf_bomb), Dead(""))
    yield kind_of(
        "a PDF whose stream is longer than the file", "length.pdf", f.one_page(good.replace(b"/Length ", b"/Length 9")), Searchable(text)
    )
    yield kind_of("a PDF that runs a program", "script.pdf", f.one_page(good, page=b"/AA<</O<</S/Launch/F(/bin/sh)>>>>"), Searchable(text))
    yield kind_of("a PDF nested 10,000 deep", "deep.pdf", f.one_page(good, page=b"/X" + b"[" * 10_000 + b"]" * 10_000), Searchable(text))
    yield kind_of("a PDF of a page of no size", "size.pdf", f.one_page(good, page=b"/MediaBox[0 0 0 0]"), Searchable(text))
    yield kind_of("a PDF without pages", "blank.pdf", f.one_page(f.stream(b"")), NO_TEXT)


def _pdf_bomb() -> bytes:
    import zlib

    return f.one_page(f.stream(zlib.compress(b"BT " + b"(x) Tj " * 30_000_000, 9), b"/Filter/FlateDecode"))


def binaries() -> Iterator[Kind]:
    yield kind_of("an image that claims to be huge", "huge.png", f.png(2**31 - 1, 2**31 - 1), IMAGE)
    yield kind_of("an image called text", "png.txt", f.png(1, 1), IMAGE)
    yield kind_of("the head of a JPEG", "photo.jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF\0", IMAGE)
    yield kind_of("a GIF", "dot.gif", b"GIF89a\1\0\1\0\0\0\0;", IMAGE)
    yield kind_of("a sound", "song.mp3", b"ID3\3\0\0\0\0\0\0" + bytes(100), Dead("has no text"))
    yield kind_of("a film", "film.mp4", b"\0\0\0\x18ftypmp42" + bytes(100), Dead("has no text"))
    yield kind_of("a program", "program", b"\x7fELF\2\1\1" + bytes(9) + b"\2\0>\0" + bytes(200), NOT_TEXT)
    yield kind_of("a program for Windows called text", "setup.txt", b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff" + bytes(200), NOT_TEXT)
    yield kind_of("a database", "data.sqlite", b"SQLite format 3\0\x10\0\1\1" + bytes(400), NOT_TEXT)
    yield kind_of("a class of Java", "Main.class", b"\xca\xfe\xba\xbe\0\0\0\x41\0\x1d" + b"words" * 20, NOT_TEXT)


def names() -> Iterator[Kind]:
    for what, name in {
        "a newline": "new\nline.txt",
        "quotes": "'single' \"double\" `back`.txt",
        "a shell command": "; rm -rf $HOME & echo | cat.txt",
        "a leading dash": "--help.txt",
        "percent signs": "100%41 %2F..%2F.txt",
        "shell patterns": "[a]*?{b}.txt",
        "a backslash": "C:\\temp\\x.txt",
        "what separates a URL": "a?b=c#d&e;f@g:h+i.txt",
        "white space at both ends": " both ends .txt ",
        "accents as characters": "caf\u00e9.txt",
        "accents as accents": "cafe\u0301.txt",
        "a right-to-left override": "exe\u202etxt.txt",
        "emoji": "👩‍👩‍👧‍👦🏴‍☠️.txt",
        "control characters": "bell\a tab\t escape\x1b[31m.txt",
        "line separators": "line\u2028separator\u2029.txt",
        "a name that Windows reserves": "CON",
        "dots": "a...txt...",
        "a format": "%s%n{0}{context.settings.broker}.txt",
        "255 bytes": "n" * 251 + ".txt",
    }.items():
        yield kind_of(f"a name with {what}", name, f"the document named for {what}", Searchable(what))
    yield kind_of("a name that is no UTF-8", b"latin-\xe9\xff.txt", "the document of another encoding", Searchable("another encoding"))
    yield kind_of("40 folders deep", "deep/" * 40 + "a.txt", "the document far below", Searchable("far below"))
    yield kind_of("a hidden file", ".hidden.txt", "secret words", Absent())
    yield kind_of("what an editor leaves behind", "notes.txt~", "old words", Absent())
    yield kind_of("what Office leaves behind", "~$notes.docx", b"\5admin", Absent())
    yield kind_of("in a hidden folder", ".git/config", "words", Absent())


def places() -> Iterator[Kind]:
    yield kind_of("a file of a gigabyte that takes no room", "sparse.txt", partial(_sparse, 2**30), Dead("more than the 4194304"))
    yield kind_of("a pipe", "pipe.txt", os.mkfifo, Absent())
    yield kind_of("a socket", "socket.txt", _socket, Absent())
    yield kind_of("a link to a file outside", "outside-link.txt", partial(os.symlink, b"/etc/passwd"), Absent())
    yield kind_of("a link to a folder outside", "outside-folder", partial(os.symlink, b"/etc"), Absent())
    yield kind_of("a link that leads nowhere", "dangling.txt", partial(os.symlink, b"nowhere.txt"), Absent())
    yield kind_of("a link to itself", "loop.txt", partial(os.symlink, b"loop.txt"), Absent())
    yield kind_of("a link to a neighbour", "neighbour-link.txt", partial(os.symlink, b"good-0.txt"), Absent())
    yield kind_of("a folder called as a file", "folder.txt", os.mkdir, Absent())
    yield kind_of("a file nobody may write", "read-only.txt", _read_only, Searchable("words"))
    yield kind_of("a file of a century ago", "old.txt", partial(_dated, -(10**9)), Searchable("words"))
    yield kind_of("a file of a century ahead", "future.txt", partial(_dated, 5 * 10**9), Searchable("words"))


def _sparse(size: int, path: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123 (pathlib knows no names of bytes)
        file.truncate(size)


def _socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        here = os.open(".", os.O_RDONLY)
        try:  # the path of a socket must be short, the folder's need not be
            os.chdir(Path(os.fsdecode(path)).parent)
            listener.bind(path.rpartition(b"/")[2])
        finally:
            os.fchdir(here)
            os.close(here)


def _read_only(path: bytes) -> None:
    write_to(b"words that stay", path)
    Path(os.fsdecode(path)).chmod(0o444)


def _dated(at: int, path: bytes) -> None:
    write_to(b"words of another time", path)
    os.utime(path, (at, at))


KINDS = tuple(
    kind
    for family in (encodings, characters, structures, pages, mail, archives, office, portable, binaries, names, places)
    for kind in family()
)


def path_of(folder: Path, kind: Kind) -> bytes:
    return os.fsencode(folder) + b"/" + kind.name


def write(folder: Path) -> list[Kind]:
    """Make every kind below `folder`. Returns those that this machine could make."""
    made = []
    for kind in KINDS:
        path = path_of(folder, kind)
        Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError, NotImplementedError):
            kind.make(path)
            made.append(kind)
    return made


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for written in write(target):
        print(json.dumps([os.fsdecode(written.name).encode("unicode_escape").decode(), written.what, repr(written.outcome)]))
