"""Every name has one uri and every uri at most one name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.settings import DEFAULT_IGNORE
from pipeline.sources.names import Ignore, media_type, name_to_text, path_to_uri, text_to_name, uri_to_path

ROOT = "file:///in box/"

awkward = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(str.encode),
    st.sampled_from([b"%41", b"%", b"a\nb", "ü.md".encode(), b"\xff\xfe", "\u2028".encode(), b"\xed\xa0\x80", b"+", b" ", b"?#"]),
)
names = awkward.map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")).filter(lambda name: name not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)


@given(paths)
def test_a_path_survives_the_way_to_its_uri_and_back(path: bytes) -> None:
    uri = path_to_uri(ROOT, path)

    assert uri_to_path(ROOT, uri) == path
    assert text_to_name(name_to_text(path)) == path


@given(paths)
def test_a_uri_is_one_line_of_plain_utf8(path: bytes) -> None:
    uri = path_to_uri(ROOT, path)

    assert uri.splitlines() == [uri]
    assert uri.encode().decode() == uri


@given(st.text(max_size=20))
def test_a_text_that_names_a_path_is_the_uri_of_that_path(text: str) -> None:
    path = uri_to_path(ROOT, ROOT + text)

    assert path is None or path_to_uri(ROOT, path) == ROOT + text


@pytest.mark.parametrize(
    "rest", ["", "../x", "a/../x", "./x", "a//b", "/etc/passwd", "a/", "%2e%2e/x", "%2E%2E/x", "a%2Fb", "%00", "%41", "a\nb", "\ud800"]
)
def test_a_uri_that_no_file_has_names_nothing(rest: str) -> None:
    assert uri_to_path(ROOT, ROOT + rest) is None


def test_a_uri_of_another_root_names_nothing() -> None:
    assert uri_to_path(ROOT, "file:///in boxes/a.txt") is None
    assert uri_to_path(ROOT, "s3://bucket/a.txt") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain.txt", "plain.txt"),
        ("größe 1 (Ä).md".encode(), "größe 1 (Ä).md"),
        ("日本語.txt".encode(), "日本語.txt"),
        (b"100%.txt", "100%25.txt"),
        (b"two\nlines", "two%0Alines"),
        (b"latin\xe9", "latin%E9"),
    ],
)
def test_uris_stay_readable(name: bytes, text: str) -> None:
    assert name_to_text(name) == text


@given(st.lists(names, unique=True))
def test_text_order_is_the_order_of_utf8_bytes(some: list[bytes]) -> None:
    texts = [name_to_text(name) for name in some]

    assert sorted(texts) == sorted(texts, key=str.encode)


@pytest.mark.parametrize(
    "path", [b".git/config", b"a/.hidden", b"draft.txt~", b"~$report.docx", b"x.part", b"#notes#", b"a/4913", b"b.swp"]
)
def test_what_editors_and_browsers_leave_behind_is_ignored(path: bytes) -> None:
    assert Ignore(DEFAULT_IGNORE).path(path)


@pytest.mark.parametrize("path", [b"a/b.txt", b"tmp", b"a.tmp.txt", b"partial.part.md", b"#1 song.txt", b"\xff", b"two\nlines.txt", b"x~y"])
def test_everything_else_is_not(path: bytes) -> None:
    assert not Ignore(DEFAULT_IGNORE).path(path)


def test_without_patterns_nothing_is_ignored() -> None:
    assert not Ignore(()).path(b".hidden/a~")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text/plain"),
        ("README.MD", "text/markdown"),
        ("s3://bucket/some.dir/a.pdf", "application/pdf"),
        ("a.html", "text/html"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.py", "text/x-python"),
        ("folder.md/Makefile", "application/octet-stream"),
        (".md", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
    ],
)
def test_the_ending_suggests_the_media_type(name: str, kind: str) -> None:
    assert media_type(name) == kind
