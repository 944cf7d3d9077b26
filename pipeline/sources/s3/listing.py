"""The objects below a prefix, page by page, in the order of their keys' UTF-8 bytes.

Keys may hold characters that XML cannot, so Amazon is asked to encode them. LocalStack, asked the same, compares encoded keys
with a plain continuation token and skips objects between two pages; so any other store is asked for plain keys first,
and for encoded ones only where a page cannot be parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError
from botocore.handlers import set_list_objects_encoding_type_url

from pipeline.sources.s3 import aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a listing. `size` in bytes."""

    key: str
    etag: str
    size: int


class Lister:
    """Lists one bucket. Raises botocore's errors."""

    def __init__(self, s3: S3Client, bucket: str, *, page_size: int = 1000) -> None:
        self._s3, self._bucket, self._page_size = s3, bucket, page_size
        self._amazon = aws.is_amazon(s3.meta.endpoint_url)
        # botocore encodes and decodes on its own unless told; here both are explicit.
        s3.meta.events.unregister("before-parameter-build.s3.ListObjectsV2", set_list_objects_encoding_type_url)

    def items(self, prefix: str) -> Iterator[Item]:
        """Every object whose key starts with `prefix`, streaming."""
        page: dict[str, Any] = {}
        while True:
            position = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            page = self._page(Prefix=prefix, MaxKeys=self._page_size, **position)
            yield from map(_item, page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return

    def find(self, key: str) -> Item | None:
        """The object `key` itself: no other key that starts so comes before it."""
        page = self._encoded(Prefix=key, MaxKeys=1)
        return next((item for item in map(_item, page.get("Contents", ())) if item.key == key), None)

    def _page(self, **request: Any) -> dict[str, Any]:
        if self._amazon:
            return self._encoded(**request)
        try:
            return dict(self._s3.list_objects_v2(Bucket=self._bucket, **request))
        except ClientError as error:
            if aws.code_of(error) != "500":  # how botocore calls an answer that is no XML
                raise
            return self._encoded(**request)

    def _encoded(self, **request: Any) -> dict[str, Any]:
        page: Any = self._s3.list_objects_v2(Bucket=self._bucket, EncodingType="url", **request)
        for item in page.get("Contents", ()):
            item["Key"] = unquote_plus(item["Key"])
        return dict(page)


def _item(found: dict[str, Any]) -> Item:
    return Item(found["Key"], found["ETag"], found["Size"])
