"""Looks at objects that are not plainly there: gone, archived, locked, damaged, too large."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.awsrequest import AWSResponse
from emulated import Bucket, answer, error, inject

from pipeline.base.errors import ConfigurationError, DocumentError, Unavailable
from pipeline.base.model import Content
from pipeline.sources.s3 import S3Source
from pipeline.sources.s3.listing import Lister


def version_of(source: S3Source, uri: str) -> str:
    return next(line.version for line in source.list() if line.uri == uri)


def test_an_archived_object_is_a_dead_letter_with_its_version_until_it_is_restored(bucket: Bucket) -> None:
    source, uri = bucket.source(), bucket.put("a.txt", StorageClass="GLACIER")

    with pytest.raises(DocumentError, match="InvalidObjectState") as refusal:
        source.read(uri)

    assert "restore" in refusal.value.hint
    assert refusal.value.version == version_of(source, uri)


def test_folder_objects_are_not_documents_and_empty_ones_are(bucket: Bucket) -> None:
    folder, empty = bucket.put("folder/", b""), bucket.put("folder/empty.txt", b"")
    source = bucket.source()

    assert [(line.uri, line.size) for line in source.list()] == [(empty, 0)]
    assert source.read(folder) is None
    content = source.read(empty)
    assert isinstance(content, Content)
    assert content.data == b""


@pytest.mark.parametrize("key", ["never was.txt", "x" * 1100 + ".txt", "a.txt/", "\x01.txt"])
def test_what_never_was_is_none(bucket: Bucket, key: str) -> None:
    bucket.put("a.txt")
    assert bucket.source().read(bucket.uri(key)) is None


def test_uris_of_others_are_none(local_bucket: Bucket) -> None:
    local_bucket.put("in/a.txt")
    local_bucket.put("out/a.txt")
    source = local_bucket.source("in")

    assert source.read(local_bucket.uri("out/a.txt")) is None
    assert source.read("s3://another/in/a.txt") is None
    assert source.read("file:///in/a.txt") is None
    assert isinstance(source.read(local_bucket.uri("in/a.txt")), Content)


def test_a_listing_of_many_pages_is_complete_and_in_order(bucket: Bucket) -> None:
    """The keys differ in what gets encoded: an emulator that compares encoded keys loses some between two pages."""
    keys = [f"{n % 8} {chr(0xE0 + n % 7)}+{n}.txt" for n in range(40)]
    for key in keys:
        bucket.put(key)

    assert [item.key for item in Lister(bucket.s3, bucket.name, page_size=3).items("")] == sorted(keys, key=str.encode)
    assert Lister(bucket.s3, bucket.name).find(keys[7])
    assert Lister(bucket.s3, bucket.name).find(keys[7][:-1]) is None


def test_a_key_that_xml_cannot_hold_is_listed(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, "s3", "Nothing", lambda: None)  # only for its quick backoff
    uris = {local_bucket.put(key) for key in ("\x01 ü+.txt", "a.txt")}
    assert {line.uri for line in local_bucket.source().list()} == uris


def test_many_threads_may_read_at_a_time(local_bucket: Bucket) -> None:
    uris = [local_bucket.put(f"{n}.txt", str(n).encode()) for n in range(64)]
    source = local_bucket.source()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(source.read, uris))
    assert [content.data for content in found if isinstance(content, Content)] == [str(n).encode() for n in range(64)]


# Faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "KMS.DisabledException"), (400, "InvalidRequest")])
def test_a_locked_object_is_a_dead_letter_with_its_version(
    local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    uri = local_bucket.put("locked.txt")
    local_bucket.put("locked.txt.and a longer name")
    inject(monkeypatch, "s3", "GetObject", lambda: error(status, code))
    source = local_bucket.source()

    with pytest.raises(DocumentError, match=code) as refusal:
        source.read(uri)

    assert refusal.value.version == version_of(source, uri)
    assert source.read(local_bucket.uri("locked")) is None, "denied, but the listing knows nothing of it"


def test_a_locked_bucket_buries_no_document(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = local_bucket.put("a.txt")
    for operation in ("GetObject", "ListObjectsV2"):
        inject(monkeypatch, "s3", operation, lambda: error(403, "AccessDenied"))
    source = local_bucket.source()

    with pytest.raises(Unavailable):
        source.read(uri)
    with pytest.raises(Unavailable):
        list(source.list())
    with pytest.raises(ConfigurationError) as refusal:
        source.check()
    assert "localstack/iam" in refusal.value.hint


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([error(503, "SlowDown")] * 9, id="throttled"),
        pytest.param([error(500, "InternalError")] * 9, id="broken"),
        pytest.param([answer(404, b"<html>a proxy's own page</html>")], id="a-proxy"),
        pytest.param([error(400, "ExpiredToken")], id="expired-token"),
        pytest.param([error(403, "InvalidAccessKeyId")], id="revoked-key"),
        pytest.param([error(404, "NoSuchBucket")], id="no-bucket"),
    ],
)
def test_what_nobody_can_tell_is_unavailable(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, answers: list[AWSResponse]) -> None:
    uri, sent = local_bucket.put("a.txt"), iter(answers)
    inject(monkeypatch, "s3", "GetObject", lambda: next(sent, None))
    with pytest.raises(Unavailable):
        local_bucket.source().read(uri)


def bodies() -> Iterator[tuple[str, AWSResponse]]:
    headers = {"ETag": '"e"', "Last_Modified": "Mon, 24 Nov 2025 00:00:00 GMT"}
    yield "truncated", answer(200, b"0123456789", Content_Length="100", **headers)
    yield "damaged", answer(200, b"0123456789", Content_Length="10", x_amz_checksum_crc32="AAAAAA==", **headers)


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in bodies()])
def test_a_truncated_or_damaged_body_is_unavailable(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, sent: AWSResponse) -> None:
    inject(monkeypatch, "s3", "GetObject", lambda: sent)
    with pytest.raises(Unavailable):
        local_bucket.source().read(local_bucket.uri("a.txt"))


def test_a_busy_minute_is_waited_out(local_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, sent = local_bucket.put("a.txt"), iter([error(503, "SlowDown")] * 3)
    inject(monkeypatch, "s3", "GetObject", lambda: next(sent, None))
    assert isinstance(local_bucket.source().read(uri), Content)


def test_a_missing_bucket_is_no_empty_bucket(local_bucket: Bucket) -> None:
    source = S3Source("nobody-made-this", endpoint=local_bucket.endpoint)
    with pytest.raises(Unavailable):
        list(source.list())
    with pytest.raises(Unavailable):
        source.read("s3://nobody-made-this/a.txt")
    with pytest.raises(ConfigurationError) as refusal:
        source.check()
    assert "provision" in refusal.value.hint


# URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/", "s3://bucket/"),
        ("s3://bucket/in/box", "s3://bucket/in/box/"),
        ("s3://bucket/in/?queue=events&suffix=.md,.txt&region=eu-west-1", "s3://bucket/in/"),
        ("s3://bucket?queue=https://sqs.eu-west-1.amazonaws.com/1/events", "s3://bucket/"),
    ],
)
def test_a_url_names_a_source(url: str, root: str) -> None:
    assert S3Source.from_url(url, max_bytes=10).root == root


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix", "file:./inbox", "s3://bucket?quue=events"])
def test_a_url_that_names_none(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        S3Source.from_url(url)
    assert refusal.value.hint
