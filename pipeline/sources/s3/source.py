"""S3Source: looks at the objects of one bucket below one prefix. Decides nothing about what is indexed.

A uri is "s3://bucket/" and the key as it is, unicode included: nothing is escaped, so every key has one uri. A name is
a document by its key alone (a key that ends with a slash is a console's "folder"), so an event, the listing and a look
agree without asking for sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from threading import Event, Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.base.errors import ConfigurationError, DocumentError
from pipeline.base.model import Content, Delivery, DocumentEvent, Listed, Overflow, Unchanged
from pipeline.sources.names import Ignore, media_type
from pipeline.sources.s3 import aws
from pipeline.sources.s3.listing import Lister
from pipeline.sources.s3.notification import Record
from pipeline.sources.s3.watch import QueueWatch

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

__all__ = ["S3Source"]

log = logging.getLogger(__name__)

_NEVER = {"NoSuchKey", "KeyTooLongError"}
"""There is no such object, in words that only S3 uses."""

_LOCKED = {
    "InvalidObjectState": "it is archived: aws s3api restore-object, then dropdex retry",
    "AccessDenied": "allow s3:GetObject on it, and kms:Decrypt with its key, then dropdex retry",
    "InvalidRequest": "it may be encrypted with a customer's key (SSE-C), which is not supported",
}
"""The object is there, but its bytes are not for us. KMS's own codes, which start with "KMS.", belong here too."""


class S3Source:
    """Documents of `s3://bucket/prefix`. `queue` is the name or URL of the queue that is told of changes; None watches nothing.

    One queue belongs to one source: a message that is of no interest to its source is deleted.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        queue: str | None = None,
        *,
        suffixes: Sequence[str] = (),
        ignore: Sequence[str] = (),
        max_bytes: int = 64 * 2**20,
        endpoint: str = "",
        region: str = "",
        receivers: int = 2,
        wait_seconds: int = 5,
        visibility: int = 60,
        max_held: int = 10_000,
    ) -> None:
        self._bucket, self._queue = bucket, queue
        self._prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        self._suffixes = tuple(suffix.lower() for suffix in suffixes)
        self._ignore = Ignore(ignore)
        self._max_bytes = max_bytes
        self._place = {"endpoint": endpoint, "region": region or aws.region_of_queue(queue or "")}
        self._polling = {"receivers": receivers, "wait_seconds": wait_seconds, "visibility": visibility, "max_held": max_held}
        self._s3 = aws.s3_client(**self._place)
        self._lister = Lister(self._s3, bucket)
        self._refused, self._refused_lock = 0, Lock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> S3Source:
        """`s3://bucket/prefix?queue=NAME-or-URL`; `region=`, `endpoint=`, `visibility=SECONDS` and `suffix=.md,.txt` may follow."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        example = "for example s3://bucket/prefix?queue=NAME"
        if parts.scheme != "s3" or not parts.netloc:
            raise ConfigurationError(f"{url} names no bucket", hint=example)
        if unknown := set(query) - {"queue", "region", "endpoint", "suffix", "visibility"}:
            raise ConfigurationError(f"{url}: nobody knows {min(unknown)}=", hint=example)
        if suffix := query.pop("suffix", ""):
            options["suffixes"] = tuple(suffix.split(","))
        if visibility := query.pop("visibility", ""):
            if not visibility.isdecimal() or int(visibility) < 2:
                raise ConfigurationError(f"{url}: visibility= is a number of seconds, 2 or more", hint=example)
            options["visibility"] = int(visibility)
        queue = query.pop("queue", "") or None
        return cls(parts.netloc, parts.path.lstrip("/"), queue, **{**options, **query})

    @property
    def root(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    @property
    def refused(self) -> int:
        """Receipts of messages that were left for the dead-letter queue, since this process began."""
        return self._refused

    def check(self) -> None:
        """Raise ConfigurationError where bucket or queue cannot be used at all, Unavailable where nobody answers."""
        try:
            self._s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        except aws.AwsError as error:
            raise aws.fault(error, f"bucket {self._bucket}") from error
        if self._queue:
            self._open_queue().check()

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Every document, a page of a thousand at a time; S3's order is ours."""
        below = self._key(prefix or self.root)
        if below is None:
            return
        try:
            for item in self._lister.items(below):
                if self._is_document(item.key):
                    yield Listed(self._uri(item.key), _version(item.etag, item.size), item.size)
        except aws.AwsError as error:
            raise aws.unavailable(error, f"the listing of {self.root}") from error

    def read(self, uri: str, known_version: str = "") -> Content | Unchanged | None:
        """GET the object, unless it still has `known_version`. Safe to call from many threads."""
        key = self._key(uri)
        if key is None or not self._is_document(key):
            return None
        condition: Any = {"IfNoneMatch": f'"{_etag(known_version)}"'} if known_version else {}
        try:
            return self._content(uri, self._s3.get_object(Bucket=self._bucket, Key=key, **condition))
        except aws.AwsError as error:
            if aws.code_of(error) == "304":
                return Unchanged(known_version)
            self._raise_unless_gone(uri, key, error)
            return None

    def watch(self, stop: Event) -> Iterator[Delivery | Overflow]:
        """Deliveries from the queue; without one, only the listing finds changes."""
        watch = self._open_queue() if self._queue else None
        if watch:
            watch.check()
        yield Delivery(())
        if watch:
            yield from watch.deliveries(stop)
        else:
            stop.wait()

    def _open_queue(self) -> QueueWatch:
        assert self._queue, "only a source with a queue is watched"
        sqs = aws.sqs_client(**self._place)
        return QueueWatch(sqs, self._queue, self._bucket, self._event, self._refuse, **self._polling)

    def _event(self, record: Record) -> DocumentEvent | None:
        return DocumentEvent(self._uri(record.key), size=record.size) if self._is_document(record.key) else None

    def _refuse(self, message_id: str, reason: str) -> None:
        with self._refused_lock:
            self._refused += 1
        log.warning("notification refused", extra={"action": "refuse", "message_id": message_id, "reason": reason})

    def _content(self, uri: str, answer: GetObjectOutputTypeDef) -> Content:
        version, size = _version(answer["ETag"], answer["ContentLength"]), answer["ContentLength"]
        with closing(answer["Body"]) as body:
            if size > self._max_bytes:
                raise DocumentError(
                    f"{uri} has {size} bytes, more than the {self._max_bytes} that are allowed",
                    hint="raise DROPDEX_MAX_DOCUMENT_BYTES",
                    version=version,
                )
            data = body.read()  # a truncated or damaged body raises: botocore checks length and checksum
        return Content(uri, version, data, media_type(uri), answer["LastModified"].timestamp())

    def _raise_unless_gone(self, uri: str, key: str, error: Exception) -> None:
        """Why a look found no bytes: they are not for us (DocumentError), nobody knows (Unavailable), or the object is gone.

        Where the answer is not plain, the listing is asked. It tells an object that is locked from one that went, and
        from a bucket that is locked: one lost permission, or a proxy's own 404, must not bury every document.
        """
        code = aws.code_of(error)
        locked = code in _LOCKED or code.startswith("KMS.")
        if code in _NEVER:
            return
        if not locked and code != "404":
            raise aws.unavailable(error, uri) from error
        try:
            item = self._lister.find(key)
        except aws.AwsError as silence:
            raise aws.unavailable(silence, f"bucket {self._bucket}") from silence
        if item and locked:
            hint = _LOCKED.get(code, _LOCKED["AccessDenied"])
            raise DocumentError(f"{uri} cannot be read: {error}", hint=hint, version=_version(item.etag, item.size)) from error
        if item:
            raise aws.unavailable(error, uri) from error

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _key(self, uri: str) -> str | None:
        return uri.removeprefix(f"s3://{self._bucket}/") if uri.startswith(self.root) else None

    def _is_document(self, key: str) -> bool:
        if not key.startswith(self._prefix) or key.endswith("/"):
            return False
        if self._suffixes and not key.lower().endswith(self._suffixes):
            return False
        return not self._ignore.path(key.removeprefix(self._prefix).encode())


def _version(etag: str, size: int) -> str:
    """ETag and size, which the listing and a GET both tell.

    A version id is in no listing, and a time changes when the content does not. The size guards against stores whose
    ETags are weaker than Amazon's.
    """
    return f"{etag.strip(chr(34))}-{size}"


def _etag(version: str) -> str:
    return version.rpartition("-")[0]
