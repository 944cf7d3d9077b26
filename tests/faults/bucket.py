"""Histories of a bucket behind a bad network: a proxy that spoils the answers of an S3 emulator.

Documents and index both lie in buckets. The oracle, the reader and whoever checks a generation reach the emulator directly.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from pipeline.blobs import BlobStore
from pipeline.blobs import s3 as blobs_s3
from pipeline.blobs.cache import Cache
from pipeline.blobs.s3 import S3Store
from tests.faults.faults import Fault, publish_all
from tests.faults.laboratory import Laboratory
from tests.faults.people import BucketPlace, Place

SILENCE = 3.0
"""Seconds the proxy says nothing; the clients of these histories wait half as long."""

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Proxy:
    """Passes requests on to the emulator, unless a fault is set: then it spoils every answer with the given chance."""

    def __init__(self, target: str) -> None:
        self.fault, self.rate, self.struck = "", 0.5, 0
        self.chance = random.Random(0)
        self.old: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """Path → an earlier answer to a listing."""
        self._target = urlsplit(target).netloc
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                with suppress(OSError):
                    proxy.answer(self)
                    self.wfile.flush()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.send_response_only(100)
            request.end_headers()
            request.wfile.flush()
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault if self.fault and self.chance.random() < self.rate else ""
        if fault in ("500", "503"):
            self.struck += 1
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            return self._send(request, int(fault), {}, f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode())
        status, headers, data = self._forward(request, body)
        if fault == "timeout":  # it was done, but nobody hears of it
            self.struck += 1
            time.sleep(SILENCE)
            request.close_connection = True
            return None
        if fault == "truncated" and request.command == "GET" and len(data) > 1:
            self.struck += 1
            return self._send(request, status, headers, data[: len(data) // 2], claim=len(data))
        if "list-type=2" in request.path:
            key = request.path
            if fault == "stale" and key in self.old:
                self.struck += 1
                return self._send(request, *self.old[key])
            if not self.fault:
                self.old[key] = (status, headers, data)
        return self._send(request, status, headers, data)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._target, timeout=30)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            size = answer.getheader("Content-Length")
            kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("content-length", "transfer-encoding", "connection")}
            return answer.status, {**kept, **({"x-size": size} if request.command == "HEAD" and size else {})}, data
        finally:
            connection.close()

    def _send(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, *, claim: int | None = None
    ) -> None:
        request.send_response_only(status)
        size = headers.get("x-size") or str(len(data) if claim is None else claim)
        for name, value in {**headers, "Content-Length": size}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
        if claim is not None:
            request.close_connection = True


class BucketLaboratory(Laboratory):
    """A history on two buckets of its own, which the pipeline reaches through the proxy."""

    def __init__(self, broker: str, seed: int, endpoint: str) -> None:
        super().__init__(broker, seed)
        self._endpoint = endpoint
        self._names = {kind: f"{kind}-{seed}-{time.monotonic_ns()}" for kind in ("documents", "index")}

    def settings(self) -> dict[str, object]:
        return {"sources": f"s3://{self._names['documents']}", "index": f"s3://{self._names['index']}/home"}

    def make_place(self) -> Place:
        return BucketPlace(self._client, self._names["documents"])

    def fresh_store(self) -> BlobStore:
        return self._direct

    def __enter__(self) -> Laboratory:
        for name, value in KEYS.items():
            self.patch.setenv(name, value)
        self.calm = Proxy(self._endpoint)  # no fault there, and fewer small packets than the emulator sends
        self._client = boto3.client("s3", endpoint_url=self.calm.url)
        for bucket in self._names.values():
            self._client.create_bucket(Bucket=bucket)
        self._direct = S3Store(self._names["index"], "home", cache=Cache(self.root / "copies", 2**30), endpoint_url=self.calm.url)
        self.proxy = Proxy(self._endpoint)
        self.proxy.chance.seed(self.seed)
        self.patch.setenv("AWS_ENDPOINT_URL", self.proxy.url)
        impatient = {"connect_timeout": SILENCE / 2, "read_timeout": SILENCE / 2, "retries": {"mode": "standard", "total_max_attempts": 2}}
        self.patch.setattr(blobs_s3, "CLIENT", blobs_s3.CLIENT.merge(Config(**impatient)))
        self.patch.setattr("botocore.config.Config", lambda **options: Config(**{**options, **impatient}))
        self.patch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))  # botocore's own backoff
        return super().__enter__()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        self.proxy.close()
        self.calm.close()
        self._client.close()


def network(fault: str) -> Fault:
    """While people go on, and tasks run, the network is bad; the listing, too, is taken through it."""

    def strike(lab: Laboratory) -> bool:
        assert isinstance(lab, BucketLaboratory)
        proxy = lab.proxy
        lab.attempt(lab.pipeline.differences)  # what a stale listing may show later
        before = proxy.struck
        proxy.rate = 0.02 if fault == "timeout" else 0.4
        proxy.fault = fault
        try:
            for _ in range(3):
                lab.something()
                publish_all(lab)
                lab.attempt(lambda: lab.tell([event.uri for event in lab.pipeline.differences()]))
                lab.redone += sum(map(len, lab.messages)) + 3
        finally:
            proxy.fault = ""
        return proxy.struck > before

    return strike


BUCKET_FAULTS: dict[str, Callable[[Laboratory], bool]] = {
    "S3 answers 500": network("500"),
    "S3 answers 503": network("503"),
    "S3 does it and does not answer": network("timeout"),
    "S3 answer truncated": network("truncated"),
    "S3 listing stale": network("stale"),
}
