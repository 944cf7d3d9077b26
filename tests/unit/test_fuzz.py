"""Whatever bytes come in from outside, what comes out is a result or one of our errors. Damage is made from valid input, too."""

from __future__ import annotations

import io
import json
import logging
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.base.errors import ConfigurationError, CorruptIndex, DocumentError, DropdexError
from pipeline.base.logs import JsonFormatter, TextFormatter
from pipeline.base.model import Content, Passage
from pipeline.base.settings import Settings, load
from pipeline.blobs.names import checked
from pipeline.broker.valkey import broker_url
from pipeline.index.manifest import DeletesRef, FileRef, Manifest, Pointer, SegmentRef
from pipeline.index.recipe import Recipe
from pipeline.index.shard import ShardDocument, decode, encode
from pipeline.sources.names import path_to_uri, uri_to_path
from pipeline.sources.s3.notification import parse
from pipeline.text import kinds
from pipeline.text.archive import document_type

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

DIGEST = "0123456789abcdef" * 4
NOTIFICATION = json.dumps(
    {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "docs"}, "object": {"key": "a+b%20c", "size": 3}}}]}
).encode()
MANIFEST = Manifest(
    generation=7,
    parent="manifests/00000006-0123456789ab.json",
    created_at=1.5,
    recipe=Recipe.of({"extractor": "e-1", "model": "hash:4"}),
    dimension=4,
    segments=(
        SegmentRef(
            id=DIGEST[:16],
            rows=3,
            live_rows=2,
            documents=2,
            live_documents=1,
            index_type="exact",
            recall=1.0,
            index=FileRef(size=1, sha256=DIGEST),
            passages=FileRef(size=2, sha256=DIGEST),
            deletes=DeletesRef(name="deletes/00000007/0123456789abcdef-0123456789ab", sha256=DIGEST),
        ),
    ),
)
SHARD = encode([ShardDocument(DIGEST, (Passage("some words", 0, 10),), np.ones((1, 4), np.float32))])


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Valid bytes with some changed, removed, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(
            st.binary(max_size=8)
            | st.sampled_from([b'"', b"null", b"-1", b"1e999", b"../", b"\\ud800", b"[[", b"{}", bytes(data[start:end])])
        )
        data[start:end] = piece
    return bytes(data)


def any_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=400) | damaged(whole)


@MANY
@given(any_bytes(NOTIFICATION))
def test_a_notification(data: bytes) -> None:
    try:
        found = parse(data)
    except DropdexError:
        return
    for record in found.records:
        assert record.bucket
        assert record.key.encode()


@pytest.mark.parametrize("read", [Manifest.from_bytes, Pointer.from_bytes])
@MANY
@given(data=any_bytes(MANIFEST.to_bytes()) | any_bytes(Pointer.to(MANIFEST).to_bytes()))
def test_a_manifest_and_a_pointer(read: Callable[[bytes], Manifest | Pointer], data: bytes) -> None:
    try:
        found = read(data)
    except CorruptIndex:
        return
    assert type(found).from_bytes(found.to_bytes()) == found
    for name in (found.name, *found.names) if isinstance(found, Manifest) else (found.manifest,):
        assert checked(name)


@MANY
@given(any_bytes(SHARD))
def test_a_shard(data: bytes) -> None:
    try:
        documents = decode(data)
    except CorruptIndex:
        return
    for digest, document in documents.items():
        assert document.content_hash == digest
        assert len(document.passages) == len(document.vectors)


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40) | st.sampled_from(
    ["", "0", "-1", "nan", "inf", "1e999", "9" * 400, "null", "[]", "file:", "s3://", "embedded:", "a,,b", "\n", "../..", "true", "[1"]
)
KEYS = st.sampled_from([f"DROPDEX_{name.upper()}" for name in Settings.model_fields] + ["DROPDEX_", "DROPDEX_NO_SUCH", "dropdex_model"])


@MANY
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_settings(environ: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DROPDEX_")}
    with patch.dict(os.environ, clean | environ, clear=True):
        try:
            found = load()
        except ConfigurationError:
            return
    assert found.sources
    assert 0 <= found.removal_guard <= 1
    assert found.max_document_bytes > 0


@MANY
@given(VALUES | VALUES.map(lambda text: f"redis://{text}") | VALUES.map(lambda text: f"rediss://{text}"))
def test_a_broker(setting: str) -> None:
    try:
        urls = broker_url(setting)
    except ConfigurationError:
        return
    assert "://" in urls.celery
    assert "://" in urls.redis


DOCX = io.BytesIO()
with zipfile.ZipFile(DOCX, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("[Content_Types].xml", "<Types/>")
    archive.writestr("word/document.xml", "<w/>" * 50)


@MANY
@given(any_bytes(DOCX.getvalue()))
def test_a_zip(data: bytes) -> None:
    for zipped in (data, b"PK\3\4" + data):
        with suppress(DocumentError):
            assert document_type(zipped).startswith("application/")


@MANY
@given(
    st.binary(max_size=400) | st.sampled_from([DOCX.getvalue(), SHARD, NOTIFICATION]).flatmap(damaged),
    st.sampled_from(["a.txt", "a.pdf", "a.doc", "a.html", "a", "a.png", "a.eml"]),
)
def test_a_document(data: bytes, name: str) -> None:
    content = Content(f"file:///inbox/{name}", "1", data, "", 0.0)
    with suppress(DocumentError):
        if kinds.recognise(content) == kinds.PLAIN:
            assert isinstance(kinds.decode(data), str)


@MANY
@given(st.binary(max_size=60) | st.sampled_from([b"../../etc/passwd", b"a//b", b"./a", b"a/../b", b"%2E%2E/x", b"/etc/passwd", b"..", b""]))
def test_a_name_never_leads_out_of_its_root(name: bytes) -> None:
    root = "file:///inbox/"
    for uri in (path_to_uri(root, name), root + name.decode("utf-8", "surrogateescape")):
        path = uri_to_path(root, uri)
        if path is not None:
            assert not path.startswith(b"/")
            assert b".." not in path.split(b"/")
            assert path_to_uri(root, path) == uri


@MANY
@given(st.text(max_size=60))
def test_a_blob_never_leaves_its_store(name: str) -> None:
    try:
        parts = checked(name).split("/")
    except ValueError:
        return
    assert all(part and not part.startswith(".") for part in parts)


@MANY
@given(st.text(max_size=60), st.text(max_size=60))
def test_an_event_is_one_line(uri: str, reason: str) -> None:
    record: Any = logging.makeLogRecord({"name": "pipeline.x", "msg": "document is dead", "levelname": "INFO", "levelno": 20})
    record.uri, record.reason = uri, reason
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert line.isascii()
        assert len(line.splitlines()) == 1
    assert json.loads(JsonFormatter().format(record))["uri"] == uri
