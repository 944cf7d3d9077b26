"""What every suite may use: a Valkey and an S3 emulator of the session's own, started when the first test asks for them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from pipeline.broker import EmbeddedBroker


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
    """What `boto3.client("s3", **options)` takes to reach the session's S3, which has one bucket, "home".

    The emulator is ministack: it checks a condition and writes in one step, as S3 does; moto's server does it in two.
    """
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    options = {"endpoint_url": endpoint, "aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    with tempfile.TemporaryDirectory(prefix="s3-", dir="/tmp") as folder:
        environment = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3", "TMPDIR": folder, "LOG_LEVEL": "ERROR"}
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=os.environ | environment,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_answer(f"{endpoint}/_localstack/health", process)
            client = boto3.client("s3", **options)
            client.create_bucket(Bucket="home")
            client.close()
            yield options
        finally:
            process.terminate()
            process.wait()


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None, "the emulator ended"
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the emulator does not answer")
