"""What every suite may use: a Valkey and an S3 emulator of the session's own, started when the first test asks for them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from pipeline.broker.valkey import EmbeddedBroker
from tests.s3_emulator import s3_emulator


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The redis-py URL of the session's server. Its folder is in /tmp because the path of a socket must be short."""
    directory = Path(tempfile.mkdtemp(prefix="valkey-", dir="/tmp"))
    try:
        with EmbeddedBroker(directory) as broker:
            yield broker.urls.redis
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def redis_client(valkey: str) -> Iterator[Redis]:
    """A client of the session's server, which is emptied first."""
    with Redis.from_url(valkey, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, str]]:
    """What `boto3.client("s3", **options)` takes to reach the session's S3, which has one bucket, "home"."""
    import boto3

    with s3_emulator() as endpoint:
        options = {"endpoint_url": endpoint, "aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", **options)
        client.create_bucket(Bucket="home")
        client.close()
        yield options
