"""What only a bucket can break: lost answers, stores without conditions, credentials, files in parts."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.httpsession import URLLib3Session

from pipeline.base.errors import ConfigurationError, Conflict, CorruptIndex, DropdexError, Unavailable
from pipeline.blobs import ABSENT, s3
from pipeline.blobs.cache import Cache
from pipeline.blobs.s3 import S3Store


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CLIENT", Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=5))


@pytest.fixture
def store(s3_options: dict[str, str], tmp_path: Path) -> Iterator[S3Store]:
    store = S3Store("home", uuid.uuid4().hex, cache=Cache(tmp_path / "cache", 2**30), **s3_options)
    yield store
    store.client.close()


def before_send(store: S3Store, operation: str, act: Any) -> None:
    store.client.meta.events.register(f"before-send.s3.{operation}", act)


def test_a_large_file_goes_up_in_parts_and_comes_back_verified(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "TRANSFER", TransferConfig(multipart_threshold=5 * 2**20, multipart_chunksize=5 * 2**20))
    # Given a file of three parts
    content = os.urandom(11 * 2**20)
    built = tmp_path / "built"
    built.write_bytes(content)
    # When it is put
    etag = store.put("segments/ab/index.faiss", built)
    # Then S3 made one object of three parts, and it is what it was
    assert etag.endswith('-3"')
    assert store.fetch("segments/ab/index.faiss", digest=hashlib.sha256(content).hexdigest()).read_bytes() == content
    assert not built.exists()


def test_a_blob_that_was_changed_is_refused(store: S3Store) -> None:
    store.put("segments/ab/x", b"not what the manifest says")
    with pytest.raises(CorruptIndex, match="segments/ab/x has sha256"):
        store.fetch("segments/ab/x", digest=hashlib.sha256(b"x").hexdigest())


def test_every_upload_carries_its_checksum(store: S3Store) -> None:
    sent: list[AWSPreparedRequest] = []

    def record(request: AWSPreparedRequest, **_: Any) -> None:
        sent.append(request)

    before_send(store, "PutObject", record)
    store.put("x", b"content")
    store.put("CURRENT", b"content", replacing=ABSENT)
    assert all("x-amz-checksum-sha256" in request.headers for request in sent)


def test_our_own_write_whose_answer_was_lost_is_no_conflict(store: S3Store) -> None:
    # Given a connection that breaks after the store has written
    first = store.put("CURRENT", b"1", replacing=ABSENT)
    lost: list[int] = []

    def lose_one_answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
        if lost:
            return None
        lost.append(URLLib3Session().send(request).status_code)
        raise ConnectionClosedError(endpoint_url=request.url)

    before_send(store, "PutObject", lose_one_answer)
    # When the pointer is moved, then the second attempt recognises the first one's write
    second = store.put("CURRENT", b"2", replacing=first)
    assert lost == [200]
    blob = store.get("CURRENT")
    assert blob is not None
    assert (blob.data, blob.etag) == (b"2", second)


def test_anothers_write_of_the_same_bytes_is_a_conflict_even_after_a_retry(store: S3Store) -> None:
    # Given another who writes the very same bytes while our first attempt is lost on its way
    first = store.put("CURRENT", b"1", replacing=ABSENT)
    other = S3Store(store.bucket, store.prefix, cache=store.cache, **store._options)
    lost: list[str] = []

    def lose_one_question(request: AWSPreparedRequest, **_: Any) -> None:
        if not lost:
            lost.append(other.put("CURRENT", b"2", replacing=first))
            raise ConnectionClosedError(endpoint_url=request.url)

    before_send(store, "PutObject", lose_one_question)
    # When the pointer is moved, then ours has not won
    with pytest.raises(Conflict):
        store.put("CURRENT", b"2", replacing=first)
    other.client.close()


@pytest.mark.parametrize("ignored", [("If-None-Match", "If-Match"), ("If-Match",), ("If-None-Match",)])
def test_a_store_that_ignores_conditions_is_refused_before_the_pointer_is_touched(store: S3Store, ignored: tuple[str, ...]) -> None:
    # Given a store that takes no notice of a condition
    def ignore(request: AWSPreparedRequest, **_: Any) -> None:
        for header in ignored:
            if header in request.headers:
                del request.headers[header]

    before_send(store, "PutObject", ignore)
    # When the pointer is to be moved, then that is the operator's to know
    with pytest.raises(ConfigurationError, match="no conditional writes") as caught:
        store.put("CURRENT", b"1", replacing=ABSENT)
    assert caught.value.hint
    assert store.get("CURRENT") is None


def test_a_store_that_says_it_has_no_conditions_is_refused(store: S3Store) -> None:
    def refuse(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
        if "If-None-Match" not in request.headers:
            return None
        body = b"<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality</Message></Error>"
        answer = AWSResponse(request.url, 501, {}, None)
        answer._content = body
        return answer

    before_send(store, "PutObject", refuse)
    with pytest.raises(ConfigurationError, match="no conditional writes"):
        store.put("CURRENT", b"1", replacing=ABSENT)


def test_other_objects_of_the_bucket_are_not_ours(store: S3Store) -> None:
    # Given a neighbour with a longer prefix, a console's folder marker, and a hidden name
    for key in (f"{store.prefix}-old/x", f"{store.prefix}/", f"{store.prefix}/.hidden", f"{store.prefix}/a/.b/c"):
        store.client.put_object(Bucket="home", Key=key, Body=b"")
    store.put("x y+z%20ü", b"")
    assert [info.name for info in store.list("")] == ["x y+z%20ü"]


def test_a_missing_bucket_is_the_operators_fault(s3_options: dict[str, str], tmp_path: Path) -> None:
    store = S3Store("nowhere", "index", cache=Cache(tmp_path / "cache", 1000), **s3_options)
    acts = (
        lambda: store.get("x"),
        lambda: store.put("x", b""),
        lambda: store.put("x", b"", replacing=ABSENT),
        lambda: list(store.list("")),
        lambda: store.delete("x"),
    )
    for act in acts:
        with pytest.raises(ConfigurationError, match="s3://nowhere/index") as caught:
            act()
        assert "create the bucket" in caught.value.hint
    store.client.close()


def test_missing_credentials_are_the_operators_fault(s3_options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    store = S3Store("home", "", cache=Cache(tmp_path, 1000), endpoint_url=s3_options["endpoint_url"])
    with pytest.raises(ConfigurationError) as caught:
        store.get("x")
    assert "credentials" in caught.value.hint


def test_a_server_that_does_not_answer_is_unavailable(s3_options: dict[str, str], tmp_path: Path) -> None:
    store = S3Store("home", "", cache=Cache(tmp_path, 1000), **(s3_options | {"endpoint_url": "http://127.0.0.1:9"}))
    with pytest.raises(Unavailable, match="cannot read x from s3://home"):
        store.get("x")


def test_an_endpoint_that_is_none_is_the_operators_fault(s3_options: dict[str, str], tmp_path: Path) -> None:
    store = S3Store("home", "", cache=Cache(tmp_path, 1000), **(s3_options | {"endpoint_url": "not a url"}))
    with pytest.raises(ConfigurationError, match="Invalid endpoint"):
        store.get("x")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AccessDenied", ConfigurationError),
        ("403", ConfigurationError),
        ("InvalidAccessKeyId", ConfigurationError),
        ("SignatureDoesNotMatch", ConfigurationError),
        ("ExpiredToken", ConfigurationError),
        ("PermanentRedirect", ConfigurationError),
        ("SlowDown", Unavailable),
        ("InternalError", Unavailable),
        ("503", Unavailable),
        ("RequestTimeout", Unavailable),
    ],
)
def test_the_stores_refusals_tell_whose_fault_it_is(tmp_path: Path, code: str, expected: type[DropdexError]) -> None:
    store = S3Store("home", "", cache=Cache(tmp_path, 1000))
    with pytest.raises(expected, match=code) as caught, store._explained("read x from"):
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")
    assert caught.value.hint


def test_a_refused_upload_in_parts_names_the_reason(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 1)
    store.bucket = "nowhere"
    built = tmp_path / "built"
    built.write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="NoSuchBucket"):
        store.put("x", built)
    assert built.exists()
