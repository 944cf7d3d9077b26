"""An emulator that runs, a bucket on it with its queue, and a watch of both: the words of the tests beside this file."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict

from pipeline.base.errors import DropdexError
from pipeline.base.model import Delivery
from pipeline.sources.s3 import S3Source, aws
from pipeline.sources.s3.provision import provision

ROOT = Path(__file__).parents[2]
HEALTH = {"localstack": "_localstack/health", "ministack": "_ministack/health", "moto": "moto-api/"}
HOOK = {
    "PROVISION_BUCKET": "hooked",
    "PROVISION_QUEUE": "hooked-events",
    "PROVISION_INDEX": "hooked-index",
    "PROVISION_SCRIPT": str(ROOT / "pipeline" / "sources" / "s3" / "provision.py"),
}
"""What LocalStack's ready hook is told to make."""


@contextmanager
def server(kind: str, folder: Path, *, port: int = 0, **environment: str) -> Iterator[str]:
    """An emulator on this port or a free one. At the end of the block it is killed. Its first start in a clean clone installs it."""
    port = port or free_port()
    with (folder / "log").open("wb") as log:
        command = [str(ROOT / "localstack" / "run"), kind]
        process = subprocess.Popen(
            command, env={**os.environ, "GATEWAY_PORT": str(port), **environment}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/{HEALTH[kind]}") or process.poll() is not None, seconds=170)
        assert process.poll() is None, f"{kind} did not start:\n{(folder / 'log').read_text()[-2000:]}"
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def answers(url: str, text: str = "") -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200 and text.encode() in answer.read()
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for what must become true; whoever waits in vain fails."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def record(bucket: str, key: str, name: str = "ObjectCreated:Put") -> dict[str, Any]:
    """One record as S3 sends it."""
    return {"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "size": 1}}}


def message(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


class Bucket:
    """A bucket of its own for one test, with its queue, on one of the emulators."""

    def __init__(self, endpoint: str, kind: str) -> None:
        self.endpoint, self.kind = endpoint, kind
        self.name = f"documents-{uuid.uuid4().hex[:12]}"
        self.queue = f"{self.name}-events"
        self.s3: Any = aws.s3_client(endpoint=endpoint)
        self.sqs: Any = aws.sqs_client(endpoint=endpoint)
        made = provision(self.name, self.queue, endpoint=endpoint)
        self.queue_url, self.dead_url = made.queue_url, made.dead_letter_url
        self.expected_dead: list[str] = []
        self.watched = False

    def source(self, prefix: str = "", **options: Any) -> S3Source:
        return S3Source(self.name, prefix, **{"queue": self.queue, "endpoint": self.endpoint, "wait_seconds": 1, **options})

    @contextmanager
    def watching(self, prefix: str = "", *, acknowledge: bool = True, **options: Any) -> Iterator[Watch]:
        """Watch in the background until the block ends; the deliveries that are still open then are given back."""
        self.watched = True
        watch = Watch(self.source(prefix, **options), acknowledge)
        watch.thread.start()
        try:
            assert watch.armed.wait(10)
            yield watch
        finally:
            watch.stop.set()
            watch.thread.join()
            for delivery in watch.deliveries:
                delivery.release()

    def put(self, key: str, body: bytes = b"some text", **options: Any) -> str:
        self.s3.put_object(Bucket=self.name, Key=key, Body=body, **options)
        return self.uri(key)

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key)

    def send(self, *bodies: str) -> None:
        """Put messages into the queue, as anybody could who may send."""
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
            self.sqs.send_message_batch(QueueUrl=self.queue_url, Entries=entries)

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def count(self, *states: str) -> int:
        """Messages that the queue holds: `Delayed`, `NotVisible` (in somebody's hands), or "" (visible)."""
        names = [f"ApproximateNumberOfMessages{state}" for state in states]
        found = self.sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def waiting(self) -> int:
        return self.count("", "NotVisible")

    def redrive_after(self, receives: int) -> None:
        """Fewer receipts until the dead-letter queue, so that a test need not wait for five."""
        arn = self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
        self.sqs.set_queue_attributes(QueueUrl=self.queue_url, Attributes={"RedrivePolicy": policy})

    def dead(self) -> list[str]:
        """Bodies in the dead-letter queue, which this empties."""
        bodies = []
        while found := self.sqs.receive_message(QueueUrl=self.dead_url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages"):
            for each in found:
                bodies.append(each["Body"])
                self.sqs.delete_message(QueueUrl=self.dead_url, ReceiptHandle=each["ReceiptHandle"])
        return bodies


class Watch:
    """A running watch: what it delivered so far."""

    def __init__(self, source: S3Source, acknowledge: bool) -> None:
        self.source, self._acknowledge = source, acknowledge
        self.deliveries: list[Delivery] = []
        self.error: Exception | None = None
        self.armed, self.stop = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for delivery in self.source.watch(self.stop):
                assert isinstance(delivery, Delivery)
                if self.armed.is_set():
                    self.deliveries.append(delivery)
                    if self._acknowledge:
                        delivery.ack()
                self.armed.set()
        except DropdexError as error:
            self.error = error
            self.armed.set()

    @property
    def uris(self) -> list[str]:
        return [event.uri for delivery in self.deliveries for event in delivery.events]

    def acknowledge_all(self) -> None:
        for delivery in self.deliveries:
            delivery.ack()


def inject(monkeypatch: pytest.MonkeyPatch, service: str, operation: str, answer: Callable[[], AWSResponse | None]) -> None:
    """Let every client that is made from now on get `answer` to `operation`; None lets the request through."""
    make = getattr(aws, f"{service}_client")

    def make_faulty(**options: str) -> Any:
        client = make(**options)
        client.meta.events.register(f"before-send.{service}.{operation}", lambda **_: answer())
        return client

    monkeypatch.setattr(aws, f"{service}_client", make_faulty)
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))  # botocore's own backoff


def answer(status: int, body: bytes, **headers: str) -> AWSResponse:
    """What a server would send; botocore parses it as such."""
    return AWSResponse("http://test", status, HeadersDict({name.replace("_", "-"): value for name, value in headers.items()}), _Raw(body))


def error(status: int, code: str) -> AWSResponse:
    """An error as S3 sends it, and in a header as SQS does."""
    body = f"<Error><Code>{code}</Code><Message>{code}, injected</Message></Error>".encode()
    return answer(status, body)


class _Raw(io.BytesIO):
    """The part of urllib3's response that botocore reads."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()
