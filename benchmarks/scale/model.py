"""From measured costs to a prediction. Pure: no clock, no socket, no file; every figure comes in as an argument.

A corpus is documents and passages. Each stage costs so much per document and so much per passage, which two corpora of
different shape tell apart. Every program of dropdex but the embedding worker exists once and computes on one core, so
the slowest of them bounds the documents per second, and more embedding workers help until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

GIB = 2**30
HOUR = 3600.0

REQUEST_DOLLARS = {
    **dict.fromkeys(
        ("PutObject", "CopyObject", "ListObjectsV2", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListBuckets"), 5e-6
    ),
    **dict.fromkeys(
        ("GetObject", "HeadObject", "HeadBucket", "GetBucketVersioning", "GetBucketLocation", "GetBucketNotificationConfiguration"), 4e-7
    ),
    **dict.fromkeys(("DeleteObject", "DeleteObjects"), 0.0),
    **dict.fromkeys(("GetQueueUrl", "GetQueueAttributes"), 4e-7),
    **dict.fromkeys(
        ("ReceiveMessage", "DeleteMessage", "DeleteMessageBatch", "ChangeMessageVisibility", "ChangeMessageVisibilityBatch"), 4e-7
    ),
}
"""Dollars per request: S3 Standard, SQS standard queues. All prices here are list prices of us-east-1 in 2025, without free tiers."""
STORED_GB_MONTH = 0.023
"""Dollars for a gigabyte in S3 Standard for a month."""
VCPU_HOUR = 0.04048
"""Dollars for one virtual processor of Fargate (Linux, x86) for an hour."""
REDIS_GIB_HOUR = 0.0168
"""Dollars for a gibibyte of an ElastiCache cache.r7g.large node (13.07 GiB at $0.219) for an hour."""


@dataclass(frozen=True)
class Corpus:
    """What one measured run was about."""

    documents: int
    passages: int


@dataclass(frozen=True)
class Cost:
    """So much per document, so much per passage."""

    document: float
    passage: float

    def of(self, documents: float, passages: float) -> float:
        return self.document * documents + self.passage * passages

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.document + other.document, self.passage + other.passage)


def fit(short: tuple[Corpus, float], long: tuple[Corpus, float]) -> Cost:
    """The two unit costs that explain both totals. Where noise would make one negative it is 0, and the other explains all."""
    (a, total_a), (b, total_b) = short, long
    determinant = a.documents * b.passages - b.documents * a.passages
    if not determinant:
        return Cost((total_a + total_b) / (a.documents + b.documents), 0.0)
    document = (total_a * b.passages - total_b * a.passages) / determinant
    passage = (a.documents * total_b - b.documents * total_a) / determinant
    if document < 0:
        return Cost(0.0, (total_a + total_b) / (a.passages + b.passages))
    if passage < 0:
        return Cost((total_a + total_b) / (a.documents + b.documents), 0.0)
    return Cost(document, passage)


def fit_all(short: tuple[Corpus, Mapping[str, float]], long: tuple[Corpus, Mapping[str, float]]) -> dict[str, Cost]:
    """`fit` for every name that occurs."""
    return {name: fit((short[0], short[1].get(name, 0.0)), (long[0], long[1].get(name, 0.0))) for name in sorted({*short[1], *long[1]})}


@dataclass(frozen=True)
class Measured:
    """Everything that the prediction is made of. Seconds are processor seconds."""

    stages: dict[str, Cost]
    programs: dict[str, Cost]
    redis_bytes: Cost
    redis_commands: Cost
    index_bytes: Cost
    requests: dict[str, float]
    """S3 and SQS requests per document of a first ingest, by operation."""
    live_requests: dict[str, float]
    """The same per document that is uploaded later."""
    idle_requests: dict[str, float]
    """Per second in which nothing happens."""
    model_seconds: float
    """Per passage, in the real model."""
    listing_seconds: float
    """Of the watcher per document of a listing in which nothing differs."""
    rebuild_seconds: float
    """Per passage of a merge of everything into one exact segment."""
    manifest_bytes: float
    """Per segment."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        def costs(group: Mapping[str, Any]) -> dict[str, Cost]:
            return {name: Cost(**cost) for name, cost in group.items()}

        single = {name: Cost(**data[name]) for name in ("redis_bytes", "redis_commands", "index_bytes")}
        return cls(**{**data, **single, "stages": costs(data["stages"]), "programs": costs(data["programs"])})


SINGLE = ("watch", "indexing", "valkey")
"""Programs that exist once, however many workers there are."""


@dataclass(frozen=True)
class Prediction:
    """A first ingest, and what stays afterwards."""

    documents: int
    workers: int
    rate: float
    """Documents per second."""
    bound: str
    """The program that is busy all the time."""
    hours: float
    cpu_hours: float
    redis_gib: float
    index_gib: float
    compute_dollars: float
    request_dollars: float
    storage_dollars_month: float
    listing_minutes: float


def seconds_per_document(measured: Measured, passages: float) -> dict[str, float]:
    """Processor seconds of each program for one document of so many passages, the real model included."""
    found = {name: cost.of(1, passages) for name, cost in measured.programs.items()}
    hashing = measured.stages.get("embed", Cost(0, 0)).of(1, passages)
    found["embedding"] = max(0.0, found.get("embedding", 0.0) - hashing) + measured.model_seconds * passages
    return found


def rates(measured: Measured, passages: float, workers: int) -> dict[str, float]:
    """Documents per second that each program could do at the most, one core each."""
    costs = seconds_per_document(measured, passages)
    found = {name: 1 / costs[name] for name in SINGLE if costs.get(name)}
    return found | {"embedding": workers / costs["embedding"]}


def dollars(requests: Mapping[str, float]) -> float:
    """What so many requests of each operation cost. An operation without a price is an error, not a gift."""
    return sum(REQUEST_DOLLARS[name] * number for name, number in requests.items())


def predict(measured: Measured, documents: int, passages: float, workers: int) -> Prediction:
    """A first ingest of `documents` of `passages` passages each from a bucket, with `workers` embedding workers of one core."""
    able = rates(measured, passages, workers)
    bound = min(able, key=able.__getitem__)
    hours = documents / able[bound] / HOUR
    cpu_hours = documents * sum(seconds_per_document(measured, passages).values()) / HOUR
    redis_gib = measured.redis_bytes.of(documents, documents * passages) / GIB
    index_bytes = measured.index_bytes.of(documents, documents * passages)
    return Prediction(
        documents=documents,
        workers=workers,
        rate=able[bound],
        bound=bound,
        hours=hours,
        cpu_hours=cpu_hours,
        redis_gib=redis_gib,
        index_gib=index_bytes / GIB,
        compute_dollars=(workers + len(SINGLE)) * VCPU_HOUR * hours + redis_gib * REDIS_GIB_HOUR * hours,
        request_dollars=documents * dollars(measured.requests),
        storage_dollars_month=index_bytes / 1e9 * STORED_GB_MONTH,
        listing_minutes=documents * measured.listing_seconds / 60,
    )


@dataclass(frozen=True)
class Limit:
    """Something that holds up to a number of documents, and what helps beyond."""

    documents: float
    what: str
    then: str


def limits(measured: Measured, passages: float, *, reconcile_every: float, rebuild_every: float, redis_gib: float) -> list[Limit]:
    """What breaks, the first first, for documents of `passages` passages."""
    redis = measured.redis_bytes.of(1, passages)
    return sorted(
        [
            Limit(
                rebuild_every / (measured.rebuild_seconds * passages),
                f"the merge of everything into one segment takes longer than its period of {rebuild_every:.0f} s",
                "a longer `DROPDEX_REBUILD_EVERY`; tiered merges go on without it",
            ),
            Limit(
                reconcile_every / measured.listing_seconds,
                f"a listing takes longer than its period of {reconcile_every:.0f} s, so the watcher lists without a pause",
                "a longer `DROPDEX_RECONCILE_EVERY`, or a pipeline per prefix",
            ),
            Limit(redis_gib * GIB / redis, f"the ledger outgrows {redis_gib:.0f} GiB of Redis", "a larger node, or a pipeline per prefix"),
            Limit(
                86_400 * min(rates(measured, passages, 10**9).values()),
                "a first ingest takes longer than a day however many workers there are",
                "a pipeline per prefix: each has a watcher and a builder of its own",
            ),
        ],
        key=lambda limit: limit.documents,
    )
