"""Three emulators that disagree keep the source honest: LocalStack, ministack, moto. Each is a real server.

They start by `localstack/run`, as `make localstack` does, and once per session. Set AWS_ENDPOINT_URL to test on a LocalStack that
runs already. A test's queue must be empty at its end, and its dead-letter queue must hold exactly what the test expects.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from emulated import HEALTH, HOOK, ROOT, Bucket, answers, server, until


@pytest.fixture(scope="session", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a LocalStack that its ready hook has provisioned."""
    running = os.environ.get("AWS_ENDPOINT_URL", "").rstrip("/")
    if running and answers(f"{running}/{HEALTH['localstack']}"):
        hook = ROOT / "localstack" / "ready.d" / "provision.sh"
        subprocess.run([hook], env={**os.environ, **HOOK, "PROVISION_ENDPOINT": running, "PROVISION_PYTHON": sys.executable}, check=True)
        yield running
        return
    with server("localstack", tmp_path_factory.mktemp("localstack"), **HOOK) as url:
        until(lambda: answers(f"{url}/_localstack/init/ready", '"completed": true'), seconds=30)
        yield url


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server("ministack", tmp_path_factory.mktemp("ministack")) as url:
        yield url


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server("moto", tmp_path_factory.mktemp("moto")) as url:
        yield url


def open_bucket(endpoint: str, kind: str) -> Iterator[Bucket]:
    bucket = Bucket(endpoint, kind)
    yield bucket
    if bucket.watched:
        until(lambda: bucket.waiting() == 0)
    assert sorted(bucket.dead()) == sorted(bucket.expected_dead)


@pytest.fixture(params=["localstack", "ministack", "moto"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """A bucket on each emulator in turn."""
    yield from open_bucket(request.getfixturevalue(request.param), request.param)


@pytest.fixture
def local_bucket(localstack: str) -> Iterator[Bucket]:
    """A bucket on LocalStack, for what needs no second opinion."""
    yield from open_bucket(localstack, "localstack")
