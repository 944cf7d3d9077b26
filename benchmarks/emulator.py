"""A LocalStack of its own for a benchmark, provisioned, without Docker."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.sources.s3.provision import provision

ROOT = Path(__file__).parent.parent
BUCKET, QUEUE, INDEX = "bench", "bench-events", "bench-index"


@contextmanager
def localstack() -> Iterator[tuple[Path, str]]:
    """A folder for the stack and the name of a bucket; the environment points every client at the emulator."""
    folder = Path(tempfile.mkdtemp(prefix="dropdex-bench-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    os.environ.update(AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    with (folder / "localstack.log").open("wb") as log:
        environment = {**os.environ, "GATEWAY_PORT": url.rpartition(":")[2]}
        process = subprocess.Popen([ROOT / "localstack" / "run"], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(f"{url}/_localstack/health", process)
        provision(BUCKET, QUEUE, index=INDEX)
        yield folder, BUCKET
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(url: str, process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
