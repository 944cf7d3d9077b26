"""Look at documents and settle what was found: read, recognise, extract, split, embed, write one shard.

The stamp is taken before the first read. A document's own fault never raises out of here: it settles as a dead letter,
and its neighbours go on. Only infrastructure raises, after everything that could be settled is.
"""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.exceptions import RedisError

from pipeline.base.errors import DocumentError, DocumentInMotion, DropdexError, ExtractorDied, Unavailable
from pipeline.base.model import Content, DeadLetter, Entry, Origin, State, Unchanged
from pipeline.context import Context, current
from pipeline.index.shard import ShardDocument, encode
from pipeline.ledger.ledger import Claimed, Look, Outcome
from pipeline.tasks import flow
from pipeline.tasks.app import RETRY, app

log = logging.getLogger(__name__)

READERS = 8
"""Concurrent reads of one batch. A folder gains little, a bucket answers eight questions in the time of one."""

MOTION_SECONDS = 1.0
"""How long a document that moved under our eyes is left alone before the next look."""

UNTELLING = ("application/octet-stream", "image/", "audio/", "video/")
"""Types of names that help nobody to read a content: a copy named so must not decide for the others of its batch."""

INFRASTRUCTURE = (DropdexError, RedisError, OSError)
"""What is raised where no document is at fault: a document's own errors are returned and settled."""

FADING = 0.8
"""Weight of the past in the measured rate, batch by batch."""


class Found(NamedTuple):
    """A document that is there, with the digest of its bytes."""

    claim: Claimed
    content: Content
    digest: str


@dataclass
class Reading:
    """What reading a batch came to: some documents are settled by that alone, some have content to work on."""

    outcomes: list[Outcome] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    moving: list[str] = field(default_factory=list)
    unavailable: Unavailable | None = None


@app.task(name="dropdex.embed", ignore_result=False, **RETRY)
def embed(uris: list[str], origin: str) -> str:
    """Look at the documents, embed what is new, settle what was found. Returns a short, deterministic word."""
    context = current()
    look = context.ledger.begin(uris)
    if origin == Origin.BACKFILL:
        look = look.without_times()
    if look.claimed:
        with context.ledger.keeping(look), context.metering():
            started = time.monotonic()
            with context.meter.stage("read"):
                reading = read(context, look)
            work(context, look, reading)
            context.meter.observe("batch_documents", len(look.claimed))
            _keep_rate(context, len(look.claimed), time.monotonic() - started)
        if reading.moving:
            flow.hand_over([reading.moving], Origin(origin), countdown=MOTION_SECONDS)
        if reading.unavailable:
            raise reading.unavailable
    return f"{len(uris)} documents"


def read(context: Context, look: Look) -> Reading:
    """Look at each claimed document in its source."""
    reading = Reading()

    def one(claim: Claimed) -> Content | Unchanged | DropdexError | None:
        # A dead document is read whole: what kept it dead may be gone without a new version (a restored archive, a new limit).
        known = claim.entry.version if claim.entry and claim.entry.state is State.PRESENT else ""
        try:
            return context.source_of(claim.uri).read(claim.uri, known)
        except (DocumentError, DocumentInMotion, Unavailable) as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        for claim, seen in zip(look.claimed, pool.map(one, look.claimed), strict=True):
            _sort(context, look, reading, claim, seen)
    return reading


def _sort(context: Context, look: Look, reading: Reading, claim: Claimed, seen: Content | Unchanged | DropdexError | None) -> None:
    match seen:
        case None:
            reading.outcomes.append(Outcome(Entry(claim.uri, State.REMOVED, look.stamp, noticed=claim.noticed)))
        case Unchanged():
            assert claim.entry is not None, "only a known version can be unchanged"
            reading.outcomes.append(Outcome(claim.entry.with_(stamp=look.stamp, noticed=claim.noticed), base=claim.entry.stamp))
        case Content():
            reading.found.append(Found(claim, seen, hashlib.sha256(seen.data).hexdigest()))
        case DocumentInMotion():
            reading.moving.append(claim.uri)
        case Unavailable():
            context.meter.add("errors", service="source")
            reading.unavailable = seen
        case DocumentError():
            reading.outcomes.append(dead(context, look, claim, seen.version, seen))


def work(context: Context, look: Look, reading: Reading) -> None:
    """Settle a batch. Documents whose last attempt never ended go one by one, so a killer costs only itself."""
    versions = [(found.claim.uri, found.content.version) for found in reading.found]
    unfinished = context.ledger.attempts(versions)
    together = [found for found, n in zip(reading.found, unfinished, strict=True) if n == 0]
    settle(context, look, reading.outcomes + index_together(context, look, together))
    for found, n in zip(reading.found, unfinished, strict=True):
        if n >= max(2, context.settings.max_attempts):  # the first attempt may have been in the company of the culprit
            error = DocumentError(f"the worker died {n} times while it worked on this document", hint="dropdex dead retry URI")
            settle(context, look, [dead(context, look, found.claim, found.content.version, error, attempts=n)])
        elif n:
            settle(context, look, [index_alone(context, look, found)])


def settle(context: Context, look: Look, outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes down and count them. A ledger that lost its memory refuses them; the relay hands over again."""
    if outcomes and context.ledger.settle(look, outcomes):
        states = Counter("unchanged" if outcome.base is not None else outcome.entry.state.value for outcome in outcomes)
        for state, number in states.items():
            context.meter.add("looks", number, outcome=state)


def index_together(context: Context, look: Look, batch: Sequence[Found]) -> list[Outcome]:
    """Index a batch, or its documents one by one where that fails: one of them is at fault, and its neighbours are not."""
    try:
        return index(context, look, batch)
    except INFRASTRUCTURE:
        raise
    except Exception:
        log.exception("batch failed, trying its documents one by one", extra={"action": "one_by_one", "documents": len(batch)})
        return [index_alone(context, look, found) for found in batch]


def index_alone(context: Context, look: Look, found: Found) -> Outcome:
    """Index one document. Whatever it raises is its own fault, unless infrastructure is away."""
    try:
        return index(context, look, [found])[0]
    except INFRASTRUCTURE:
        raise
    except Exception as error:
        fault = DocumentError(f"the document cannot be indexed: {error!r}")
        fault.__cause__ = error
        return dead(context, look, found.claim, found.content.version, fault)


@contextmanager
def counted(context: Context, versions: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Count an attempt at each version before the work, so that a crash counts too. Infrastructure that is away does not."""
    context.ledger.attempt(versions)
    try:
        yield
    except INFRASTRUCTURE:
        context.ledger.unattempt(versions)
        raise


def index(context: Context, look: Look, batch: Sequence[Found]) -> list[Outcome]:
    """Recognise what is known by its content, embed the rest with one call, and write it into one shard."""
    if not batch:
        return []
    known = dict(zip((found.digest for found in batch), context.ledger.shards_of([found.digest for found in batch]), strict=True))
    telling = sorted(batch, key=lambda found: not found.content.media_type.startswith(UNTELLING))  # the last copy of a content is read
    new = {found.digest: found for found in telling if known[found.digest] is None and not _confirms(found)}
    with counted(context, [(found.claim.uri, found.content.version) for found in new.values()]):
        shard, lengths, errors = write_shard(context, f"{look.stamp}-{batch[0].digest[:8]}", list(new.values()))
    context.meter.add("reuses", len(batch) - len(new))
    outcomes = []
    for found in batch:
        if error := errors.get(found.digest):
            attempts = context.settings.max_attempts if isinstance(error, ExtractorDied) else 1
            outcomes.append(dead(context, look, found.claim, found.content.version, error, attempts=attempts))
        else:
            holder = shard if found.digest in new else known[found.digest] or ""
            outcomes.append(_outcome(look, found, holder, lengths.get(found.digest, 0)))
    return outcomes


def _confirms(found: Found) -> bool:
    """Touched, but the same bytes as the look before: nothing to publish."""
    entry = found.claim.entry
    return entry is not None and entry.state is State.PRESENT and entry.content_hash == found.digest


def _outcome(look: Look, found: Found, shard: str, passages: int) -> Outcome:
    claim, content = found.claim, found.content
    entry = Entry(
        content.uri,
        State.PRESENT,
        look.stamp,
        version=content.version,
        content_hash=found.digest,
        shard=shard,
        size=len(content.data),
        media_type=content.media_type,
        modified_at=content.modified_at,
        noticed=claim.noticed,
        passages=passages,
    )
    if claim.entry and _confirms(found):
        return Outcome(
            entry.with_(shard=claim.entry.shard, passages=claim.entry.passages, generation=claim.entry.generation), base=claim.entry.stamp
        )
    return Outcome(entry)


def dead(context: Context, look: Look, claim: Claimed, version: str, error: DocumentError, *, attempts: int = 1) -> Outcome:
    """The outcome of a document that cannot be indexed as it is. Its trouble is as old as its first dead letter."""
    now = time.time()
    earlier = context.ledger.dead_letter(claim.uri)
    entry = Entry(claim.uri, State.DEAD, look.stamp, version=version, noticed=claim.noticed)
    detail = "".join(traceback.format_exception(error))
    letter = DeadLetter(claim.uri, version, str(error), attempts, first_at=earlier.first_at if earlier else now, last_at=now, detail=detail)
    log.warning("document is dead", extra={"action": "dead_letter", "uri": claim.uri, "reason": str(error)})
    return Outcome(entry, letter=letter)


def write_shard(context: Context, name: str, batch: Sequence[Found]) -> tuple[str, dict[str, int], dict[str, DocumentError]]:
    """Extract, split and embed the contents into one shard.

    Returns the shard's blob name ("" where nothing was embedded), passages per content hash, and errors per content hash.
    """
    with context.meter.stage("extract"):
        texts = extract(context, batch)
    errors = {digest: text for digest, text in texts.items() if isinstance(text, DocumentError)}
    good = {digest: text for digest, text in texts.items() if isinstance(text, str)}
    if not good:
        return "", {}, errors
    with context.meter.stage("split"):
        pieces = dict(zip(good, context.splitter.split_many(list(good.values())), strict=True))
    flat = [piece for document in pieces.values() for piece in document]
    with context.meter.stage("embed"):
        vectors = context.embedder.embed([piece.passage.text for piece in flat], [piece.ids for piece in flat])
    documents, row = [], 0
    for digest, document in pieces.items():
        passages = tuple(piece.passage for piece in document)
        documents.append(ShardDocument(digest, passages, vectors[row : row + len(passages)]))
        row += len(passages)
    blob = f"shards/{context.recipe.digest}/{name}"
    context.blobs.put(blob, encode(documents), durable=False)  # lost with the power, it is embedded again
    context.meter.add("embeddings", row)
    return blob, {digest: len(document) for digest, document in pieces.items()}, errors


def extract(context: Context, batch: Sequence[Found]) -> dict[str, str | DocumentError]:
    """Text or error per content hash. A document that killed its extractor is tried again alone, up to the limit."""
    texts = dict(zip((found.digest for found in batch), context.extractor.extract_many([f.content for f in batch]), strict=True))
    for found in batch:
        while isinstance(texts[found.digest], ExtractorDied):
            attempts = context.ledger.attempt([(found.claim.uri, found.content.version)])[0]
            if attempts > context.settings.max_attempts:
                break
            texts[found.digest] = context.extractor.extract_many([found.content])[0]
    return texts


def _keep_rate(context: Context, documents: int, seconds: float) -> None:
    """A fading mean of documents a second, from which the relay sizes its batches."""
    old = [float(value) for value in (context.ledger.noted("pace") or "0 0").split()]
    seen, spent = (FADING * old[0] + documents, FADING * old[1] + seconds)
    context.ledger.note("pace", f"{seen} {spent}")
    context.ledger.note("rate", f"{seen / spent:.3f}")
