"""Publish what has settled: one build at a time, and the next takes all that settled meanwhile.

The ledger says what changed, the writer drafts a generation, the swap moves CURRENT by compare-and-set. The lease only
saves work: two builders that both believe they hold it cannot both move the pointer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

from pipeline.base.errors import Conflict, CorruptIndex, Unavailable
from pipeline.base.model import Entry, Origin, State
from pipeline.context import Context, current
from pipeline.index import upkeep
from pipeline.index.documents import DocumentFacts, IndexedDocument
from pipeline.index.draft import Add, Change, Copy, Draft, Remove
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.index.merge import plan
from pipeline.index.shard import ShardDocument, decode
from pipeline.index.writer import Writer
from pipeline.ledger.lease import Lease
from pipeline.sinks.swap import Swap
from pipeline.tasks import flow
from pipeline.tasks.app import RETRY, app

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Renewed at a third of it; a builder that died is replaced after it."""

CONFLICTS = 20
"""Moves of CURRENT by others in a row after which a build gives up and is retried later."""

BUSY_DOCUMENTS = 64
"""Documents that wait to be looked at, above which generations come less often and carry more."""

BUSY_INTERVAL = 0.6
"""Seconds between two publications then: a publication takes a core for 30 ms, so one in twenty is spent on it at the most."""

NAP_SECONDS = 0.1
"""How often a build that waits asks whether it still has to."""

MAX_PASSAGES = 100_000
"""Passages of one generation at the most, so that a build's memory is bounded however long the documents are."""


@app.task(name="dropdex.build", ignore_result=False, **RETRY)
def build() -> str:
    """Publish everything that has settled. Returns a short word on what happened."""
    context = current()
    lease = Lease(context.redis, f"{context.ledger.namespace}:build", LEASE_SECONDS)
    if not lease.acquire_or_want():
        context.ledger.count({"lease_waits|lease=build": 1})
        return "coalesced"
    try:
        with lease.keep(), context.metering():
            while True:
                published = publish_settled(context)
                if lease.release_unless_wanted():
                    return published
    except BaseException:
        lease.release()
        raise


def publish_settled(context: Context) -> str:
    """Publish generation after generation until nothing is settled; then serve a finished index of a new recipe."""
    word = "nothing settled"
    while True:
        epoch = context.seed()
        writer = context.building()
        served = writer.home.current()
        pace(context, served[0] if served else None)
        entries = bounded(context.ledger.settled(context.settings.build_documents), MAX_PASSAGES)
        if not entries:
            promote(context)
            return word
        if served and served[0].held:
            return "held"
        manifest = publish(context, writer, epoch, entries)
        if manifest:
            word = f"generation {manifest.generation}"
            follow_up(context, manifest)


def bounded(entries: Sequence[Entry], passages: int) -> list[Entry]:
    """The first entries that together have no more than `passages` passages; always one, where there is one."""
    totals = accumulate(max(1, entry.passages) for entry in entries)
    return [entry for number, (entry, total) in enumerate(zip(entries, totals, strict=True)) if number == 0 or total <= passages]


def pace(context: Context, served: Manifest | None) -> None:
    """Wait until the last publication is old enough: a trickle of events must not make a generation each."""
    if served:
        age, begin = max(0.0, time.time() - served.created_at), time.monotonic()  # a clock may run behind that of the last builder
        while (rest := interval(context) - age - (time.monotonic() - begin)) > 0:
            time.sleep(min(rest, NAP_SECONDS))


def interval(context: Context) -> float:
    """Seconds between two publications. While much still waits to be looked at, the cores belong to the embedder."""
    usual = context.settings.build_interval
    return max(usual, BUSY_INTERVAL) if context.ledger.counts()["noticed"] > BUSY_DOCUMENTS else usual


def held(writer: Writer) -> bool:
    """Whether an operator rolled the index back and has not resumed building."""
    current = writer.home.current()
    return current is not None and current[0].held


def publish(context: Context, writer: Writer, epoch: str, entries: Sequence[Entry]) -> Manifest | None:
    """One generation with these outcomes; None where the index already is as they say."""
    with context.meter.stage("publish"):
        committed = commit(context, writer, epoch, list(changes_of(context, entries)))
    if committed is None:
        log.warning("the ledger lost its memory during a build, beginning again", extra={"action": "forgotten", "epoch": epoch})
        return None
    manifest, missing = committed
    current = manifest or (found[0] if (found := writer.home.current()) else None)
    done = [entry for entry in entries if entry.uri not in missing]
    if context.ledger.published(epoch, current.generation if current else 0, done) and manifest:
        context.ledger.note("generation", str(manifest.generation))
    now = time.time()
    waits = [now - entry.noticed / 1e6 for entry in done if entry.noticed]
    context.ledger.fresh(waits)
    for wait in waits:
        context.meter.observe("freshness_seconds", wait)
    if missing:
        broken = [entry for entry in entries if entry.uri in missing]
        log.warning("content to reuse is gone, looking again", extra={"action": "renotice", "documents": len(broken)})
        context.ledger.renotice(epoch, broken)
        look_again(context, broken)
    return manifest


def look_again(context: Context, entries: Sequence[Entry]) -> None:
    uris, size = [entry.uri for entry in entries], context.settings.max_batch
    flow.hand_over((uris[start : start + size] for start in range(0, len(uris), size)), Origin.BACKFILL)


def commit(context: Context, writer: Writer, epoch: str, changes: Sequence[Change]) -> tuple[Manifest | None, frozenset[str]] | None:
    """Draft and swap until nobody was faster. Returns the manifest, if there was anything to publish, and what is missing.

    None where the memory that the changes come from is over.
    """
    for _ in range(CONFLICTS):
        try:
            draft = writer.draft(changes, facts=freshness(context))
            if late := overtaken(context, changes):
                changes = [change for change in changes if change.uri not in late]
                continue
            if draft is None:
                return None, frozenset()
            if not intend(context, epoch, draft.manifest):
                return None
            return swap(context, writer.home, draft), frozenset(draft.missing)
        except Conflict as conflict:
            log.info("somebody published first, drafting again", extra={"action": "conflict", "reason": str(conflict)})
    raise Unavailable(f"lost {CONFLICTS} races for CURRENT in a row", hint="who else publishes to this index?")


def swap(context: Context, home: Home, draft: Draft) -> Manifest:
    """Serve the draft. One that is not what was written, or does not find its own vectors, is refused, told and counted."""
    try:
        return Swap(home).publish(draft)
    except CorruptIndex as error:
        context.meter.add("canary_refusals")
        facts = {"generation": draft.manifest.generation, "reason": str(error), "hint": error.hint}
        log.warning("generation refused, the old one is served", extra={"action": "refused", **facts})
        raise


def overtaken(context: Context, changes: Sequence[Change]) -> set[str]:
    """Documents of which a younger look has settled since we read the ledger.

    Another builder may have published it already: a removal leaves nothing in the index that an older change could be
    compared with, so the document would come back. Asked after the draft has read CURRENT: what is published later, conflicts.
    """
    entries = context.ledger.entries([change.uri for change in changes])
    return {change.uri for change, entry in zip(changes, entries, strict=True) if entry and entry.stamp > change.stamp}


def intend(context: Context, epoch: str, manifest: Manifest) -> bool:
    """Tell the ledger what is about to be published; False where it must not be.

    A build whose ledger lost its memory publishes what the new memory has never heard of. By the intent the next one can
    tell: it builds upon nothing that it neither was taught nor intended, but learns it first.
    """
    if manifest.generation - 1 > int(context.ledger.noted("generation") or 0):
        context.seed()
    return context.ledger.intend(epoch, manifest.name)


def freshness(context: Context) -> dict[str, float]:
    """Event-to-searchable times so far, in seconds, for the manifest."""
    samples = context.ledger.freshness()
    return {f"freshness_p{q}": samples[min(len(samples) - 1, len(samples) * q // 100)] for q in (50, 95)} if samples else {}


def follow_up(context: Context, manifest: Manifest) -> None:
    """Tell the other sinks, each in a task of its own, and merge where that is due."""
    context.meter.add("publications", reason=manifest.note.split()[0])
    for name in context.sinks:
        app.send_task("dropdex.publish", args=(name, manifest.generation), argsrepr=f"{name} generation {manifest.generation}")
    if plan(manifest.segments, context.settings.merge_factor):
        app.send_task("dropdex.merge")


def promote(context: Context) -> None:
    """Serve the index of a new recipe once it is complete (everything listed, nothing waiting) and nobody holds the old one."""
    building, served = context.building_home(), context.home.current()
    counts = context.ledger.counts()
    if (
        building.pointer_name != context.home.pointer_name
        and context.ledger.noted("reconciled")
        and not counts["noticed"] + counts["settled"]
        and building.pointer()
        and not (served and served[0].held)
    ):
        manifest = upkeep.promote(context.home, building)
        context.ledger.note("generation", str(manifest.generation))
        context.ledger.note("home", context.home.pointer_name)


def changes_of(context: Context, entries: Sequence[Entry]) -> Iterator[Change]:
    """What the outcomes mean for the index. Contents come from their shards, or from wherever the index has them."""
    shards: dict[str, dict[str, ShardDocument]] = {}
    for entry in entries:
        if entry.state is State.REMOVED:
            yield Remove(entry.uri, entry.stamp)
            continue
        facts = DocumentFacts(entry.uri, entry.version, entry.content_hash, entry.stamp, entry.size, entry.media_type, entry.modified_at)
        if entry.shard and entry.shard not in shards:
            shards[entry.shard] = read_shard(context, entry.shard)
        content = shards.get(entry.shard, {}).get(entry.content_hash)
        yield Add(IndexedDocument.of(facts, content.passages, content.vectors)) if content else Copy(facts)


def read_shard(context: Context, name: str) -> dict[str, ShardDocument]:
    """A shard's contents; none where it was collected or is damaged: then the index has them, or they are embedded again."""
    blob = context.blobs.get(name)
    try:
        return decode(blob.data) if blob else {}
    except CorruptIndex as error:
        log.warning("shard is damaged", extra={"action": "shard", "shard": name, "reason": str(error)})
        return {}
