"""The contract of every source, kept by a bucket on each emulator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from emulated import Bucket

from pipeline.sources import Source

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from test_source import *  # noqa: F403
from test_source import MAX_BYTES


class Prefix:
    """A Place: documents below a prefix of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.source: Source = bucket.source("documents", max_bytes=MAX_BYTES)

    def put(self, name: str, data: bytes) -> str:
        return self._bucket.put(f"documents/{name}", data)

    def remove(self, name: str) -> None:
        self._bucket.delete(f"documents/{name}")

    def rename(self, name: str, to: str) -> None:
        copied = {"Bucket": self._bucket.name, "Key": f"documents/{name}"}
        self._bucket.s3.copy_object(Bucket=self._bucket.name, Key=f"documents/{to}", CopySource=copied)
        self.remove(name)


@pytest.fixture
def place(bucket: Bucket) -> Prefix:
    return Prefix(bucket)
