"""Measures everything that the model needs: two corpora through a pipeline, one through LocalStack, the model alone."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from benchmarks import corpus
from benchmarks.scale.cluster import Cluster, cluster
from benchmarks.scale.model import Corpus, Cost, Measured, fit, fit_all

SHORT = (8_000, 130)
"""Documents, words each: one passage, as the hash embedder reads a thousand characters of each."""
LONG = (2_000, 700)
"""About five passages of the same length."""
OBJECTS = 1_000
LATER = 200
IDLE_SECONDS = 20.0
MODEL_TEXTS = 200
REQUEST = re.compile(r"AWS (?:s3|sqs)\.(\w+) =>")


class Run(NamedTuple):
    """Totals of one corpus, from the first file until everything is published."""

    corpus: Corpus
    seconds: float
    stages: Counter[str]
    programs: Counter[str]
    redis_bytes: float
    redis_commands: float
    index_bytes: float
    manifest_bytes: float
    listing_seconds: float
    rebuild_seconds: float


def run(number: int, words: int) -> Run:
    """Ingest `number` files of `words` words; then list them again, and merge them into one segment."""
    with cluster(notes=True, inflight_batches=1) as running:
        before, idle = running.redis(), idle_commands(running)
        stages, programs = running.stages(), running.cpu_seconds()
        corpus.fill(running.folder / "staged", number, words)
        (running.folder / "staged").rename(running.inbox / "dropped")
        seconds = running.until(lambda: running.documents() == number)
        programs, stages, after = difference(running.cpu_seconds(), programs), difference(running.stages(), stages), running.redis()
        found = running.context.home.current()
        assert found
        manifest = found[0]
        return Run(
            Corpus(number, manifest.live_rows),
            seconds,
            stages,
            programs,
            float(after["used_memory"] - before["used_memory"]),
            max(0.0, after["total_commands_processed"] - before["total_commands_processed"] - idle * seconds),
            float(sum(file.size for segment in manifest.segments for file in segment.files.values())),
            len(manifest.to_bytes()) / len(manifest.segments),
            listing(running) / number,
            rebuild(running) / manifest.live_rows,
        )


def difference(now: Counter[str], then: Counter[str]) -> Counter[str]:
    return Counter({name: value - then[name] for name, value in now.items() if value > then[name]})


def idle_commands(running: Cluster, seconds: float = 3.0) -> float:
    """Redis commands a second of a pipeline in which nothing happens."""
    before = running.redis()["total_commands_processed"]
    time.sleep(seconds)
    return float(running.redis()["total_commands_processed"] - before) / seconds


def listing(running: Cluster) -> float:
    """Processor seconds of one reconcile that finds nothing."""
    before, ledger = running.stages()["list and compare"], running.context.ledger
    last = ledger.noted("reconciled")
    ledger.note("reconcile", "benchmark")
    running.until(lambda: ledger.noted("reconciled") != last)
    return running.stages()["list and compare"] - before


def rebuild(running: Cluster) -> float:
    """Processor seconds of a merge of everything into one segment, in this process."""
    writer = running.context.building()
    plan = writer.plan_rebuild()
    begin = time.process_time()
    if plan:
        writer.merge(plan)
    return time.process_time() - begin


class Requests(NamedTuple):
    """S3 and SQS requests by operation: per object of a first ingest, per object uploaded later, per second of nothing."""

    ingest: dict[str, float]
    live: dict[str, float]
    idle: dict[str, float]


def requests() -> Requests:
    """As LocalStack logged them. The uploads of the benchmark itself are left out."""
    import boto3

    from benchmarks.emulator import INDEX, QUEUE, localstack

    with localstack() as (folder, bucket):
        s3 = boto3.client("s3")

        def upload(first: int, number: int) -> None:
            for place, text in enumerate(corpus.texts(number, seed=first), first):
                s3.put_object(Bucket=bucket, Key=f"{place:06}.txt", Body=text.encode())

        upload(0, OBJECTS)
        sqs = boto3.client("sqs")
        sqs.purge_queue(
            QueueUrl=sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        )  # a listing finds them, as in a bucket that is older than its queue
        before = logged(folder)
        with cluster(folder=folder, source=f"s3://{bucket}/?queue={QUEUE}", index=f"s3://{INDEX}/home") as running:
            running.until(lambda: running.settled(OBJECTS))
            time.sleep(5.0)  # what is published is acknowledged
            ingest, before = difference(logged(folder), before), logged(folder)
            time.sleep(IDLE_SECONDS)
            idle, before = difference(logged(folder), before), logged(folder)
            upload(OBJECTS, LATER)
            running.until(lambda: running.settled(OBJECTS + LATER))
            time.sleep(5.0)
            live = difference(logged(folder), before) - Counter(PutObject=LATER)
    return Requests(*(per(asked, number) for asked, number in ((ingest, OBJECTS), (live, LATER), (idle, IDLE_SECONDS))))


def per(asked: Counter[str], number: float) -> dict[str, float]:
    return {name: round(count / number, 4) for name, count in sorted(asked.items()) if count > 0}


def logged(folder: Path) -> Counter[str]:
    return Counter(REQUEST.findall((folder / "localstack.log").read_text(errors="replace")))


def model_seconds() -> float:
    """Processor seconds of the packaged model per passage of 100 words, in the precision that it would choose here."""
    from pipeline.embedder import open_embedder

    embedder = open_embedder("all-MiniLM-L6-v2")
    embedder.warm()
    texts = list(corpus.texts(MODEL_TEXTS))
    begin = time.process_time()
    embedder.embed(texts)
    return (time.process_time() - begin) / len(texts)


def measured() -> Measured:
    """All of it, in about three minutes."""
    short, long, asked = run(*SHORT), run(*LONG), requests()

    def cost(name: str) -> Cost:
        return fit((short.corpus, getattr(short, name)), (long.corpus, getattr(long, name)))

    return Measured(
        stages=fit_all((short.corpus, short.stages), (long.corpus, long.stages)),
        programs=fit_all((short.corpus, short.programs), (long.corpus, long.programs)),
        redis_bytes=cost("redis_bytes"),
        redis_commands=cost("redis_commands"),
        index_bytes=cost("index_bytes"),
        requests=asked.ingest,
        live_requests=asked.live,
        idle_requests=asked.idle,
        model_seconds=model_seconds(),
        listing_seconds=short.listing_seconds,
        rebuild_seconds=short.rebuild_seconds,
        manifest_bytes=short.manifest_bytes,
    )
