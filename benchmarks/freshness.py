"""From a change to a reader that sees it, one at a time, over an index of 2,000 documents and the real model."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import corpus, synthetic
from benchmarks.report import Row
from benchmarks.stack import Stack, stack

TRIES = 20
BACKFILL = 20_000


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def timed(
    running: Stack, change: Callable[[Path, str], object], seen: Callable[[Path], Callable[[], object]], *, pause: float = 0.4
) -> list[float]:
    """Seconds for each of TRIES changes to be seen, at random moments, `pause` seconds apart at the most."""
    times = []
    for number, text in enumerate(corpus.texts(TRIES, seed=int(time.time()))):
        path = running.inbox / f"dropped-{number}.txt"
        condition = seen(path)
        begin = time.perf_counter()
        change(path, text)
        running.until(condition)
        times.append(time.perf_counter() - begin)
        time.sleep(random.random() * pause)
    return times


def model() -> Iterator[Row]:
    """Drop, change, delete, over 2,000 documents; then a restart with nothing changed."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as name:
        folder = Path(name)
        corpus.fill(folder / "inbox", 2_000)
        with stack(folder) as running:
            running.until_complete()
            yield from steps(running, "2,000 files")
        with stack(folder) as running:
            yield Row("restart with nothing changed, 2,000 files, ready after", running.until_ready(), "s", "<= 3.0")
            before = float(str(running.status()["embedded_total"]))
            yield Row("embedded at that restart", before - 2_000 - 2 * TRIES, "passages", "<= 0")


def steps(running: Stack, over: str, bars: tuple[str, str] = ("<= 0.15", "<= 0.30")) -> Iterator[Row]:
    """Each of drop, change and delete, TRIES times."""

    def changed(path: Path) -> Callable[[], bool]:
        before = running.content_of(path)
        return lambda: running.content_of(path) not in {"", before}

    changes = {
        "drop": (Path.write_text, changed),
        "change": (Path.write_text, changed),
        "delete": (lambda path, _: path.unlink(), lambda path: lambda: not running.content_of(path)),
    }
    for name, (change, seen) in changes.items():
        times = timed(running, change, seen)
        yield Row(f"{name} to found, {over}, p50", statistics.median(times), "s", bars[0])
        yield Row(f"{name} to found, {over}, p95", quantile(times, 0.95), "s", bars[1])


def million() -> Iterator[Row]:
    """The same over an index that already holds a million passages of other people's documents."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as name:
        folder = Path(name)
        corpus.fill(folder / "inbox", 100)
        with stack(folder, index=synthetic.million().home.blobs.url) as running:
            running.until_complete()
            yield from steps(running, f"{synthetic.MILLION:,} passages", bars=("<= 0.225", "<= 0.45"))


def backfill() -> Iterator[Row]:
    """A file dropped while 20,000 documents are being backfilled."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as name:
        folder = Path(name)
        corpus.fill(folder / "inbox", BACKFILL)
        with stack(folder) as running:
            running.until(lambda: running.documents() > 0)
            times = timed(running, Path.write_text, lambda path: lambda: running.content_of(path), pause=4.0)
            left = BACKFILL + TRIES - running.documents()
            yield Row(f"left of a backfill of {BACKFILL:,} after {TRIES} drops", left, "documents", ">= 1")
            yield Row(f"drop to found, {BACKFILL:,} in backfill, p50", statistics.median(times), "s", "<= 1.5")
            yield Row(f"drop to found, {BACKFILL:,} in backfill, p95", quantile(times, 0.95), "s", "<= 3.0")


def bucket() -> Iterator[Row]:
    """The same on LocalStack, index and all, with what LocalStack itself takes from a put to its message beside it."""
    import boto3

    from benchmarks.emulator import INDEX, QUEUE, localstack

    with localstack() as (folder, bucket):
        s3 = boto3.client("s3")
        own = notification_times(bucket)
        for number, text in enumerate(corpus.texts(2_000)):
            s3.put_object(Bucket=bucket, Key=f"{number // 1000:03}/{number:06}.txt", Body=text.encode())
        url = f"s3://{bucket}/?queue={QUEUE}"
        with stack(folder, source=url, index=f"s3://{INDEX}/home") as running:
            running.until_complete()
            texts = list(corpus.texts(TRIES, seed=int(time.time())))
            for name in ("upload", "delete"):
                times = []
                for number, text in enumerate(texts):
                    key = f"dropped-{number}.txt"
                    begin = time.perf_counter()
                    if name == "upload":
                        s3.put_object(Bucket=bucket, Key=key, Body=text.encode())
                    else:
                        s3.delete_object(Bucket=bucket, Key=key)
                    running.until(lambda key=key, name=name: bool(running.content_of_uri(f"s3://{bucket}/{key}")) == (name == "upload"))
                    times.append(time.perf_counter() - begin)
                    time.sleep(random.random() * 0.4)
                yield Row(f"{name} to found, 2,000 objects on LocalStack, p50", statistics.median(times), "s", "<= 0.60")
                yield Row(f"{name} to found, 2,000 objects on LocalStack, p95", quantile(times, 0.95), "s", "<= 1.20")
        yield Row("of that, LocalStack's own put to message, p50", statistics.median(own), "s")
        yield Row("of that, LocalStack's own put to message, p95", quantile(own, 0.95), "s")


def notification_times(bucket: str) -> list[float]:
    """Seconds from a put until its message can be received, nobody else listening."""
    import boto3

    from benchmarks.emulator import QUEUE

    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    url, times = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"], []
    sqs.purge_queue(QueueUrl=url)
    for number in range(TRIES):
        begin = time.perf_counter()
        s3.put_object(Bucket=bucket, Key=f"probe-{number}", Body=b"probe")
        while not (found := sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5).get("Messages")):
            pass
        times.append(time.perf_counter() - begin)
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        s3.delete_object(Bucket=bucket, Key=f"probe-{number}")
        for message in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5).get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return times
