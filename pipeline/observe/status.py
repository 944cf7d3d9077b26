"""What operators ask: how is it going, where is my document, is the index right. Reads everything, changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.base.settings import Settings
from pipeline.context import Context
from pipeline.index.choice import urgency
from pipeline.index.manifest import Manifest
from pipeline.ledger.progress import Situation, eta, stage, told
from pipeline.sources.names import path_to_uri

JOBS = {"rebuild": "last:rebuild", "cleanup": "last:cleanup", "statistics": "last:statistics", "reconcile": "reconciled"}
"""Scheduled jobs, and the note that each leaves in the ledger when it succeeds. A reconcile has succeeded when every source
was listed: the wish for one proves nothing."""

OVERDUE_PERIODS = 2.0
"""Periods after which a job that did not succeed is an alarm: one tick may be missed, and the next one catches it up."""


def figures(context: Context) -> dict[str, Any]:
    """One flat record of figures: counts, bytes, ages and times in seconds."""
    found = context.home.current()
    ledger = ledger_figures(context)
    index = index_figures(found[0], context.settings.exact_rows) if found else {"generation": 0}
    return {**work_figures(context, ledger, held=bool(index.get("held"))), **ledger, **index}


def work_figures(context: Context, ledger: Mapping[str, Any], *, held: bool) -> dict[str, Any]:
    """What is being done, how fast, and how long what waits will take: documents a second, and seconds."""
    building, merging = context.redis.mget(f"{context.ledger.namespace}:build", f"{context.ledger.namespace}:merge")
    progress = told(context.ledger, ledger["alive"])
    now = Situation(ledger["alive"], ledger["noticed"], ledger["settled"], progress, bool(building), bool(merging), held)
    return {"stage": stage(now), "documents_per_second": round(progress.rate, 2), "eta_seconds": eta(now)}


def ledger_figures(context: Context) -> dict[str, Any]:
    """What is known, what waits, and how fast it goes."""
    ledger, now = context.ledger, time.time()
    counts = ledger.counts()
    totals = ledger.totals()
    samples = ledger.freshness()
    ages = {job: round(now - float(last), 1) for job, note in JOBS.items() if (last := ledger.noted(note))}
    return {
        "documents": counts["documents"],
        "noticed": counts["noticed"],
        "settled": counts["settled"],
        "pending": counts["noticed"] + counts["settled"],
        "oldest_pending": round(now - counts["oldest"] / 1e6, 3) if counts["oldest"] else 0.0,
        "dead": counts["dead"],
        "embedded_total": int(totals.get("embeddings", 0)),
        "looked_total": ledger.looked(),
        "canary_refusals_total": int(totals.get("canary_refusals", 0)),
        "freshness_p50": _quantile(samples, 0.50),
        "freshness_p95": _quantile(samples, 0.95),
        "alive": ledger.alive(),
        "overdue": overdue(ages, periods(context.settings)),
        **{f"{job}_age": age for job, age in ages.items()},
    }


def periods(settings: Settings) -> dict[str, float]:
    """Seconds between two runs of each job."""
    return {job: getattr(settings, f"{job}_every") for job in JOBS}


def overdue(ages: Mapping[str, float], every: Mapping[str, float]) -> list[str]:
    """Pure: jobs whose last success is too long ago. One that never succeeded yet has no age, and is none of them."""
    return sorted(job for job, age in ages.items() if age > OVERDUE_PERIODS * every[job])


def index_figures(manifest: Manifest, exact_rows: int) -> dict[str, Any]:
    """The published generation in numbers. `urgency`: how near its largest segment is to outgrowing exact search, 1 = there."""
    segments = manifest.segments
    return {
        "generation": manifest.generation,
        "published_age": round(time.time() - manifest.created_at, 1),
        "published_documents": manifest.live_documents,
        "passages": manifest.live_rows,
        "segments": len(segments),
        "deletes": sum(segment.rows - segment.live_rows for segment in segments),
        "bytes": sum(file.size for segment in segments for file in segment.files.values()),
        "index_types": ",".join(sorted({segment.index_type for segment in segments})),
        "recall": min((segment.recall for segment in segments), default=1.0),
        "urgency": round(max((urgency(segment.rows, exact_rows) for segment in segments), default=0.0), 4),
        "held": manifest.held,
    }


def _quantile(ascending: list[float], q: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * q))] if ascending else 0.0


class Whereabouts(NamedTuple):
    """Whether a document can be found, and a sentence about it."""

    searchable: bool
    sentence: str


def uri_of(path: str) -> str:
    """The uri of a path as a person types it; uris pass through."""
    return path if path.startswith(("file://", "s3://")) else path_to_uri("file://", os.fsencode(os.path.realpath(path)))


def whereabouts(context: Context, path: str) -> Whereabouts:
    """Is this document searchable, since when, in which generation, or why not. Asks the index first: it is the truth."""
    from pipeline.index.snapshot import Snapshot  # FAISS: the figures, which `up` draws, do without

    uri = uri_of(path)
    found = context.home.current()
    document = Snapshot.open(context.home, found[0]).document(uri) if found else None
    noticed, settled = context.ledger.pending(uri)
    letter = context.ledger.dead_letter(uri)
    waiting = " A newer version waits to be looked at." if noticed else " A newer version waits to be published." if settled else ""
    if document:
        entry = context.ledger.entries([uri])[0]
        since = f" since generation {entry.generation}" if entry and entry.generation else ""
        looked = datetime.fromtimestamp(document.stamp / 1e6).astimezone().isoformat(timespec="seconds")
        trouble = f" Its newest version is a dead letter: {letter.reason}." if letter else waiting
        return Whereabouts(True, f"{uri} is searchable{since}, as it was at {looked}, in {document.rows} passages.{trouble}")
    if letter:
        return Whereabouts(False, f"{uri} is a dead letter: {letter.reason}. Try it again with: dropdex dead retry {path}")
    if waiting:
        return Whereabouts(False, f"{uri} is not searchable yet.{waiting}")
    return Whereabouts(False, f"{uri} is unknown: no event and no listing told of it. Is it below a source? try: dropdex reconcile")
