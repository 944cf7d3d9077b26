"""An S3 answer that ends before its Content-Length is no content: not for a blob, not for a document. A real socket tells."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from botocore.config import Config

from pipeline.base.errors import Unavailable
from pipeline.base.model import Content
from pipeline.blobs import s3
from pipeline.blobs.cache import Cache
from pipeline.blobs.s3 import S3Store
from pipeline.sources.s3 import S3Source

DATA = bytes(range(256)) * 400
"""More than a socket's buffer hands over at once, so that some of it arrives."""

ITEM = "<Contents><Key>index/%04d</Key><ETag>0123</ETag><Size>1</Size><LastModified>2025-11-24T00:00:00Z</LastModified></Contents>"
LISTING = f"<ListBucketResult>{''.join(ITEM % number for number in range(1000))}</ListBucketResult>".encode()
GONE = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"

HEADERS = {"ETag": '"0123"', "Last-Modified": "Mon, 24 Nov 2025 00:00:00 GMT", "Content-Type": "text/plain"}
CHECKSUM = {"x-amz-checksum-crc32": b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()}


class Hasty(ThreadingHTTPServer):
    """Answers every GET with DATA, a LISTING or GONE, and hangs up in the middle of the first `cut` of them."""

    cut = 0
    checksum = False
    asked = 0
    gone = False


class Answer(BaseHTTPRequestHandler):
    server: Hasty

    def do_HEAD(self) -> None:
        self._head(DATA)

    def do_GET(self) -> None:
        self.server.asked += 1
        body = LISTING if "list-type=2" in self.path else GONE if self.server.gone else DATA
        self._head(body)
        whole = self.server.asked > self.server.cut
        self.wfile.write(body if whole else body[: len(body) // 2])
        self.close_connection = True

    def _head(self, body: bytes) -> None:
        self.send_response(404 if body == GONE else 200)
        checksum = CHECKSUM if self.server.checksum and body == DATA else {}
        for name, value in {**HEADERS, **checksum, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(params=[False, True], ids=["", "with-checksum"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hasty]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.setattr(s3, "CLIENT", Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=5))
    with Hasty(("127.0.0.1", 0), Answer) as running:
        running.checksum = request.param
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def store(server: Hasty, tmp_path: Path) -> Iterator[S3Store]:
    store = S3Store("home", "index", cache=Cache(tmp_path / "cache", 2**30), endpoint_url=f"http://127.0.0.1:{server.server_port}")
    yield store
    store.client.close()


def test_a_blob(server: Hasty, store: S3Store) -> None:
    server.cut = 10**9
    with pytest.raises(Unavailable, match="cannot read manifests/x"):
        store.get("manifests/x")
    server.cut = server.asked
    blob = store.get("manifests/x")
    assert blob is not None
    assert blob.data == DATA


def test_a_file_is_fetched_again_and_nothing_short_is_kept(server: Hasty, store: S3Store) -> None:
    server.cut = 10**9
    with pytest.raises(Unavailable, match="cannot read segments/ab/x"):
        store.fetch("segments/ab/x")
    assert [path for path in store.cache.directory.rglob("*") if path.is_file()] == []
    server.cut = server.asked + 1
    assert store.fetch("segments/ab/x").read_bytes() == DATA


def test_a_document(server: Hasty) -> None:
    source = S3Source("in", endpoint=f"http://127.0.0.1:{server.server_port}")
    server.cut = 10**9
    with pytest.raises(Unavailable):
        source.read("s3://in/a.txt")
    server.cut = server.asked
    content = source.read("s3://in/a.txt")
    assert isinstance(content, Content)
    assert content.data == DATA


def test_a_listing(server: Hasty, store: S3Store) -> None:
    """Half a listing that passed for a whole one would remove half of the documents."""
    source = S3Source("in", endpoint=f"http://127.0.0.1:{server.server_port}")
    server.cut = 10**9
    with pytest.raises(Unavailable):
        list(store.list(""))
    with pytest.raises(Unavailable):
        list(source.list())
    server.cut = server.asked
    assert len(list(store.list(""))) == len(list(source.list())) == 1000


def test_that_it_is_gone(server: Hasty, store: S3Store) -> None:
    """Half a sentence about an object is no news of it: what it was about may be there."""
    source = S3Source("in", endpoint=f"http://127.0.0.1:{server.server_port}")
    server.gone, server.cut = True, 10**9
    with pytest.raises(Unavailable):
        store.get("CURRENT")
    with pytest.raises(Unavailable):
        source.read("s3://in/a.txt")
    server.cut = server.asked
    assert store.get("CURRENT") is None
    assert source.read("s3://in/a.txt") is None
