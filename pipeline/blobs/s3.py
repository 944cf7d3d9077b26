"""Blobs under a bucket's prefix. The pointer moves by If-Match; everything else is written once and copied to be read.

A store that ignores If-Match would let two builders overwrite each other in silence, so the first conditional write
of a process proves that the store refuses what it must refuse. Every upload carries a checksum that the store verifies.
"""

from __future__ import annotations

import hashlib
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as boto
from botocore.config import Config
from urllib3.exceptions import HTTPError

from pipeline.base.errors import ConfigurationError, Conflict, CorruptIndex, Unavailable
from pipeline.blobs import ABSENT, Blob, BlobInfo
from pipeline.blobs.cache import Cache
from pipeline.blobs.names import checked, checked_prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES: Final = 64 * 2**20
"""From here on in parts: a file may have 10,000 of them, so 625 GiB."""
TRANSFER: Final = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8)
CLIENT: Final = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=30, max_pool_connections=16)
"""Seconds and attempts. Half a minute of silence is no answer; the task layer retries later, with its own backoff."""

WRITER: Final = "dropdex-put"
"""Metadata key that tells our own write from another's, after an attempt whose answer was lost."""
PROBE: Final = ".conditional-writes"
"""Hidden from listings, as every name with a hidden part."""

_MISSING: Final = {"NoSuchKey", "404", "NotFound"}
_LOST_RACE: Final = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_UNSUPPORTED: Final = {"NotImplemented", "501"}
_OPERATOR: Final = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "InvalidBucketName": "correct the bucket's name",
    "AccessDenied": "allow s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject on the prefix",
    "AllAccessDisabled": "ask the owner of the bucket",
    "InvalidAccessKeyId": "correct the AWS credentials",
    "SignatureDoesNotMatch": "correct the AWS credentials",
    "InvalidToken": "correct the AWS credentials",
    "ExpiredToken": "renew the AWS credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to the bucket's region",
    "AuthorizationHeaderMalformed": "set AWS_DEFAULT_REGION to the bucket's region",
    "IllegalLocationConstraintException": "set AWS_DEFAULT_REGION to the bucket's region",
}
_OPERATOR["403"] = _OPERATOR["Forbidden"] = _OPERATOR["AccessDenied"]  # a HEAD has no body, so no code of its own
_CREDENTIALS: Final = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.TokenRetrievalError, boto.SSOError)
_SETTINGS: Final = (boto.NoRegionError, boto.ParamValidationError, boto.InvalidEndpointConfigurationError, boto.InvalidRegionError)


class S3Store:
    """A BlobStore under s3://bucket/prefix. `options` go to the boto3 client; AWS_ENDPOINT_URL is honoured by boto3 itself.

    The client is made at first use, so that a process that forks before it shares no connection with its children.
    """

    def __init__(self, bucket: str, prefix: str, *, cache: Cache, **options: Any) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.cache = cache
        self._options = options
        self._proven = False

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def client(self) -> S3Client:
        session = boto3.session.Session()
        try:
            client: S3Client = session.client("s3", config=CLIENT, **self._options)
            if ".amazonaws." not in client.meta.endpoint_url:  # localhost and many others have no name for each bucket
                path_style = CLIENT.merge(Config(s3={"addressing_style": "path"}))
                client = session.client("s3", config=path_style, **self._options)
        except ValueError as error:  # how botocore refuses an endpoint
            raise ConfigurationError(f"cannot reach {self.url}: {error}", hint="correct AWS_ENDPOINT_URL") from error
        return client

    def get(self, name: str) -> Blob | None:
        with self._explained(f"read {checked(name)} from"):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name), ChecksumMode="ENABLED")
                return Blob(answer["Body"].read(), answer["ETag"])
            except boto.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def put(self, name: str, content: bytes | Path, *, replacing: str | None = None, durable: bool = True) -> str:
        """See BlobStore. What S3 has answered is always durable. A Path is gone after a put that succeeded."""
        checked(name)
        with self._explained(f"write {name} to"):
            if replacing is not None:
                etag = self._put_conditionally(name, content, replacing)
            elif isinstance(content, Path) and content.stat().st_size >= PART_BYTES:
                etag = self._put_in_parts(name, content)
            else:
                etag = self._put_whole(name, content)
        if isinstance(content, Path):
            content.unlink(missing_ok=True)
        return etag

    def fetch(self, name: str, *, digest: str = "") -> Path:
        return self.cache.fetch(self.url, checked(name), digest, lambda path: self._download(name, path))

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See BlobStore. In the bucket's order, which is that of the name's bytes."""
        skip = len(self._key(""))
        with self._explained("list"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(checked_prefix(prefix)))
            for page in pages:
                for item in page.get("Contents", ()):
                    name = item["Key"][skip:]
                    if not any(part.startswith(".") or not part for part in name.split("/")):
                        yield BlobInfo(name, item["Size"], item["LastModified"].timestamp())

    def delete(self, name: str) -> None:
        with self._explained(f"delete {checked(name)} from"):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _put_whole(self, name: str, content: bytes | Path, **conditions: Any) -> str:
        data = content if isinstance(content, bytes) else content.read_bytes()
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        answer = self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, ChecksumSHA256=checksum, **conditions)
        return answer["ETag"]

    def _put_in_parts(self, name: str, path: Path) -> str:
        extra = {"ChecksumAlgorithm": "CRC32"}  # of each part; the sha256 of the whole is in the manifest
        self.client.upload_file(str(path), self.bucket, self._key(name), ExtraArgs=extra, Config=TRANSFER)
        return self.client.head_object(Bucket=self.bucket, Key=self._key(name))["ETag"]

    def _put_conditionally(self, name: str, content: bytes | Path, replacing: str) -> str:
        self._prove_conditional_writes()
        writer = uuid.uuid4().hex
        condition = {"IfNoneMatch": "*"} if replacing == ABSENT else {"IfMatch": replacing}
        try:
            return self._put_whole(name, content, Metadata={WRITER: writer}, **condition)
        except boto.ClientError as error:
            code = _code(error)
            if code in _UNSUPPORTED:
                self._refuse_store(error)
            if code not in _LOST_RACE | _MISSING:
                raise
            if error.response["ResponseMetadata"].get("RetryAttempts") and (etag := self._written_by(name, writer)):
                return etag  # an earlier attempt had won, only its answer was lost
            raise Conflict(f"somebody else has written {name} in {self.url}") from error

    def _written_by(self, name: str, writer: str) -> str | None:
        try:
            answer = self.client.head_object(Bucket=self.bucket, Key=self._key(name))
        except boto.ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise
        return answer["ETag"] if answer["Metadata"].get(WRITER) == writer else None

    def _prove_conditional_writes(self) -> None:
        """Three small requests once per process: a name that exists must refuse both kinds of condition."""
        if self._proven:
            return
        self._put_whole(PROBE, b"written to learn whether this store honours If-None-Match and If-Match\n")
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            try:
                self._put_whole(PROBE, b"this store ignores conditions\n", **condition)
            except boto.ClientError as error:
                if _code(error) in _UNSUPPORTED:
                    self._refuse_store(error)
                if _code(error) not in _LOST_RACE:
                    raise
            else:
                self._refuse_store(None)
        self._proven = True

    def _refuse_store(self, cause: Exception | None) -> NoReturn:
        raise ConfigurationError(
            f"the store of {self.url} has no conditional writes (If-Match), so two builders would overwrite each other",
            hint="use a store that has them (AWS S3, MinIO, Cloudflare R2), or a folder: file:PATH",
        ) from cause

    def _download(self, name: str, path: Path) -> None:
        with self._explained(f"read {name} from"):
            try:
                self.client.download_file(self.bucket, self._key(name), str(path), Config=TRANSFER)
            except boto.ClientError as error:
                if _code(error) in _MISSING:
                    raise CorruptIndex(f"{name} is missing from {self.url}", hint="dropdex verify tells what else is damaged") from error
                raise

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (boto.ClientError, boto.BotoCoreError, Boto3Error, HTTPError) as error:  # the last where an answer ends too early
            cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error  # upload_file hides it
            message, hint = f"cannot {action} {self.url}: {cause}", _operators_step(cause)
            if hint:
                raise ConfigurationError(message, hint=hint) from error
            raise Unavailable(message, hint="check the network and the store's health") from error


def _code(error: boto.ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _operators_step(error: BaseException) -> str:
    """What the operator has to change; empty where trying again may help."""
    if isinstance(error, boto.ClientError):
        return _OPERATOR.get(_code(error), "")
    if isinstance(error, _CREDENTIALS):
        return "give this process AWS credentials: a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "correct the URL, or the AWS settings of this process" if isinstance(error, _SETTINGS) else ""
