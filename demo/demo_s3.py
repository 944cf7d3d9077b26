"""What `make demo-s3` runs: the same tour with a bucket where the folder was and a bucket where the index was.

LocalStack serves both, without Docker, on a port of its own that only this machine reaches.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import boto3
from tour import COMMAND, MODEL, DemoFailed, Tour, run, running, show, title

from pipeline import Reader
from pipeline.embedder import open_embedder

ROOT = Path(__file__).parent.parent
BUCKET, QUEUE, INDEX = "dropdex-demo", "dropdex-demo-events", "dropdex-demo-index"

START_SECONDS = 300.0
"""The first start installs LocalStack into a virtual environment of its own."""


class Bucket:
    """A bucket whose notifications the pipeline hears."""

    name = f"s3://{BUCKET}/"

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def put(self, name: str, data: bytes) -> None:
        self._s3.put_object(Bucket=BUCKET, Key=name, Body=data)

    def remove(self, name: str) -> None:
        self._s3.delete_object(Bucket=BUCKET, Key=name)

    def uri(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"


@contextmanager
def localstack(folder: Path) -> Iterator[str]:
    """The URL of a LocalStack that ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (folder / "localstack.log").open("wb") as log:
        environment = {**os.environ, "GATEWAY_PORT": url.rpartition(":")[2]}
        process = subprocess.Popen([ROOT / "localstack" / "run"], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"LocalStack did not start:\n{(folder / 'localstack.log').read_text()[-800:]}")
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localstack/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dropdex-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        title("LocalStack")
        with localstack(folder) as url:
            print(f"answers at {url}")
            # The pipeline and boto3 read the same variables against a real account.
            os.environ.update(AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
            settings = {"DROPDEX_INDEX": f"s3://{INDEX}/index"}
            provision(folder)
            source = f"s3://{BUCKET}/?queue={QUEUE}"
            title(f"dropdex up {source}")
            with running(folder, source, **settings) as pipeline:
                embedder = open_embedder(MODEL)
                embedder.warm()
                print(pipeline.wait_until_ready())
                with Reader.open(f"s3://{INDEX}/index", embedder=embedder, cache_dir=folder / "cache", refresh_every=0.05) as reader:
                    show(Tour(pipeline, reader, Bucket(boto3.client("s3"))))
                title("dropdex verify")
                print(pipeline.ask("verify", source))
                title("Ctrl-C")
                print(f"stopped all {pipeline.stop()} processes, none is left")


def provision(folder: Path) -> None:
    title(f"dropdex aws provision {BUCKET} {QUEUE} --index {INDEX}")
    command = [COMMAND, "aws", "provision", BUCKET, QUEUE, "--index", INDEX]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(done.stdout.rstrip())
    if done.returncode:
        raise DemoFailed(f"provisioning ended with status {done.returncode}: {done.stderr.strip()}")


if __name__ == "__main__":
    run(main)
