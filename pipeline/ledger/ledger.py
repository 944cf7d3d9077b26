"""The ledger: what was looked at, at which version, under which stamp, and what of it is published. Redis, nothing else.

Two facts make every interleaving end in the right state: the stamp is taken before the look, and the highest stamp wins.
The ledger is disposable. Whoever finds it without an epoch seeds it from the published generation before using it, and
every write that depends on memory names the epoch it remembers.

    noticed   an event arrived that no look has answered yet        uri → stamp of the newest event
    settled   a look has an outcome that no generation carries yet  uri → stamp of the look
    neither   published (or never seen)
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.resources import files
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from redis.exceptions import RedisError

from pipeline.base.model import DeadLetter, Entry, Known, State

if TYPE_CHECKING:
    from redis import Redis

CLAIM_SECONDS = 15.0
"""How long a look is believed to be under way without a sign of life. Renewed at a third of it."""

CHUNK = 1000
"""Documents per command: large enough to hide the round trip, small enough not to hold the server up."""

FRESHNESS_SAMPLES = 1000
"""How many of the newest event-to-searchable times are kept for the statistics."""

ALIVE_SECONDS = 10.0
"""How long after its last sign of life a process counts as up. Workers give one every two seconds."""

SILENT_SECONDS = 86_400.0
"""How long the name of a process that shows no life is remembered."""

SCRIPTS = (
    *("notice", "begin", "renew", "release", "attempt", "unattempt", "settle"),
    *("intend", "published", "seed", "renotice", "forget", "sweep"),
)
"""What must be atomic, in pipeline/ledger/lua."""

GONE_SECONDS = 86_400.0
"""After this a process that showed no life is forgotten: containers come and go under new names."""

T = TypeVar("T")


class Standing(StrEnum):
    """Where an event is on its way, as the relay needs to know it."""

    NOTICED = "noticed"
    SETTLED = "settled"
    DONE = "done"
    """A look younger than the event is published, or found nothing to publish."""
    LOST = "lost"
    """The ledger knows nothing of the event any more: hand it over again."""


class Claim(StrEnum):
    """Whether somebody looks at a document."""

    NONE = "none"
    LIVE = "live"
    EXPIRED = "expired"
    """Its worker died over it."""


class Claimed(NamedTuple):
    """One document that a look has begun on: when its newest event was noticed, and what the last look found."""

    uri: str
    noticed: int
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Look:
    """The right to look at some documents under one stamp, taken before the look."""

    epoch: str
    stamp: int
    claimed: tuple[Claimed, ...]

    def without_times(self) -> Look:
        """The same look for events that a listing found: nobody dropped these documents just now, so nobody waits."""
        return Look(self.epoch, self.stamp, tuple(claim._replace(noticed=0) for claim in self.claimed))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look found. `base` is the stamp of the look that it merely confirms; None: the index has to change."""

    entry: Entry
    base: int | None = None
    letter: DeadLetter | None = None


def _chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _unread(entry: Entry) -> Entry:
    """The same document, as if its content had never been seen. It stays known: the index may hold an older version of it."""
    return entry.with_(version="", content_hash="", shard="")


def _number(value: Any) -> int:
    return int(float(value)) if value is not None else 0


class Ledger:
    """One recipe's memory of its documents. Every method raises redis.exceptions.RedisError where the server is away."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis = redis
        self.namespace = namespace
        folder = files("pipeline.ledger") / "lua"
        prelude = (folder / "prelude.lua").read_text()
        self._scripts = {name: redis.register_script(prelude + (folder / f"{name}.lua").read_text()) for name in SCRIPTS}

    def _key(self, name: str) -> str:
        return f"{self.namespace}:{name}"

    def _call(self, script: str, keys: str, args: Sequence[Any]) -> Any:
        return self._scripts[script](keys=[self._key(name) for name in keys.split()], args=args)

    # Memory -------------------------------------------------------------------------------------------------------

    def epoch(self) -> str:
        """What this memory is called; empty where the ledger has none and must be seeded first."""
        return cast("str | None", self._redis.get(self._key("epoch"))) or ""

    def seed(self, published: Iterable[Entry]) -> str:
        """Learn what the published generation holds, then begin an epoch. Safe beside another seeding. Returns the epoch."""
        for chunk in _chunks(published):
            self._call("seed", "entries names contents stamp", [part for e in chunk for part in (e.uri, e.to_json(), e.content_hash)])
        self._redis.set(self._key("epoch"), uuid.uuid4().hex[:12], nx=True)
        return self.epoch()

    def clear(self) -> None:
        """Forget every document. Stamps go on rising, and figures are kept."""
        names = ("entries", "names", "noticed", "settled", "claims", "attempts", "contents", "dead")
        self._redis.delete(*(self._key(name) for name in ("epoch", "note:reconciled", "note:intent", *names)))

    # Events -------------------------------------------------------------------------------------------------------

    def notice(self, epoch: str, uris: Sequence[str]) -> int | None:
        """Write down that the documents may have changed. Returns the events' stamp, None where the epoch is over."""
        stamp = None
        for chunk in _chunks(uris):
            stamp = self._call("notice", "epoch stamp noticed", [epoch, *chunk])
            if stamp is None:
                return None
        return _number(stamp)

    def standings(self, epoch: str, events: Mapping[str, int]) -> dict[str, Standing]:
        """Where the events (uri → stamp of its notice) are on their way. All LOST where the epoch is over."""
        result: dict[str, Standing] = {}
        for chunk in _chunks(events):
            pipe = self._redis.pipeline(transaction=True)
            pipe.get(self._key("epoch"))
            pipe.zmscore(self._key("noticed"), chunk)
            pipe.zmscore(self._key("settled"), chunk)
            now, noticed, settled = pipe.execute()
            quiet = [u for u, n, s in zip(chunk, noticed, settled, strict=True) if n is None and s is None]
            found = dict(zip(quiet, self.entries(quiet), strict=True))
            for uri, n, s in zip(chunk, noticed, settled, strict=True):
                if now != epoch:
                    result[uri] = Standing.LOST
                elif n is not None:
                    result[uri] = Standing.NOTICED
                elif s is not None:
                    result[uri] = Standing.SETTLED
                else:
                    entry = found[uri]
                    result[uri] = Standing.DONE if entry and entry.stamp > events[uri] else Standing.LOST
        return result

    def claims(self, uris: Sequence[str]) -> list[Claim]:
        """Whether a look at each document is under way, as far as it shows signs of life."""
        if not uris:
            return []
        now = time.time() * 1e6
        texts = cast("list[str | None]", self._redis.hmget(self._key("claims"), list(uris)))
        return [Claim.NONE if not text else Claim.LIVE if float(text.partition(":")[2]) > now else Claim.EXPIRED for text in texts]

    # Looks --------------------------------------------------------------------------------------------------------

    def begin(self, uris: Sequence[str]) -> Look:
        """Take a stamp, claim the documents that still need a look, and say what is known of them.

        Documents settled meanwhile, or under another's live look that began after their newest event, are left out.
        """
        reply = self._call("begin", "epoch stamp noticed claims entries", [int(CLAIM_SECONDS * 1e6), *uris])
        if not reply:
            return Look("", 0, ())
        epoch, stamp, *rest = reply
        claimed = tuple(
            Claimed(uri, _number(noticed), Entry.from_json(uri, entry) if entry else None)
            for uri, noticed, entry in zip(rest[0::3], rest[1::3], rest[2::3], strict=True)
        )
        return Look(epoch, _number(stamp), claimed)

    @contextmanager
    def keeping(self, look: Look) -> Iterator[None]:
        """Show signs of life for a look while the body runs, then drop the claims that are left."""
        uris = [claim.uri for claim in look.claimed]
        done = Event()

        def renew() -> None:
            while not done.wait(CLAIM_SECONDS / 3):
                with suppress(RedisError):  # the claim lives long enough for another try
                    self._call("renew", "stamp claims", [look.stamp, int(CLAIM_SECONDS * 1e6), *uris])

        keeper = Thread(target=renew, name="claims", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            self._call("release", "claims", [look.stamp, *uris])

    def attempt(self, versions: Sequence[tuple[str, str]]) -> list[int]:
        """Count one more attempt at each (uri, version), before the work, so that a crash counts too."""
        return list(self._call("attempt", "attempts", [part for pair in versions for part in pair])) if versions else []

    def unattempt(self, versions: Sequence[tuple[str, str]]) -> None:
        """Take attempts back that ended for a reason that is none of the documents' faults."""
        if versions:
            self._call("unattempt", "attempts", [part for pair in versions for part in pair])

    def attempts(self, versions: Sequence[tuple[str, str]]) -> list[int]:
        """How many attempts at each (uri, version) did not end."""
        if not versions:
            return []
        counts = cast("list[str | None]", self._redis.hmget(self._key("attempts"), [uri for uri, _ in versions]))
        split = [(count or "0:").partition(":") for count in counts]
        return [int(n) if seen == version else 0 for (n, _, seen), (_, version) in zip(split, versions, strict=True)]

    def settle(self, look: Look, outcomes: Sequence[Outcome]) -> bool:
        """Write down what the look found; an outcome never replaces that of a younger look. False: the epoch is over."""
        for chunk in _chunks(outcomes, 500):
            args: list[Any] = [look.epoch, look.stamp]
            for entry, base, letter in ((o.entry, o.base, o.letter) for o in chunk):
                note = json.dumps(asdict(letter)) if letter else ""
                args += [entry.uri, entry.to_json(), entry.state.value, base or "", entry.content_hash, entry.shard, note]
            if self._call("settle", "epoch entries names noticed settled claims attempts contents dead", args) < 0:
                return False
        return True

    def shards_of(self, content_hashes: Sequence[str]) -> list[str | None]:
        """The shard that holds each content's vectors, "" where they are published already, None where unknown."""
        return cast("list[str | None]", self._redis.hmget(self._key("contents"), list(content_hashes))) if content_hashes else []

    # Publication --------------------------------------------------------------------------------------------------

    def settled(self, limit: int) -> list[Entry]:
        """Outcomes that wait for a generation, the oldest look first."""
        uris = cast("list[str]", self._redis.zrange(self._key("settled"), 0, limit - 1))
        return [entry for chunk in _chunks(uris) for entry in self.entries(chunk) if entry is not None]

    def intend(self, epoch: str, manifest: str) -> bool:
        """Write down which generation is about to be published, before it is. False: the epoch is over."""
        return bool(self._call("intend", "epoch note:intent", [epoch, manifest]))

    def published(self, epoch: str, generation: int, entries: Sequence[Entry]) -> bool:
        """Write down that a generation carries these very outcomes. False: the epoch is over."""
        for chunk in _chunks(entries):
            args = [epoch, generation, *(part for entry in chunk for part in (entry.uri, entry.stamp))]
            if self._call("published", "epoch entries settled", args) < 0:
                return False
        return True

    def renotice(self, epoch: str, entries: Sequence[Entry]) -> None:
        """Take a promise of reuse back that the build could not keep; the documents need a look again."""
        for chunk in _chunks(entries):
            args = [part for e in chunk for part in (e.uri, e.stamp, e.content_hash, _unread(e).to_json())]
            self._call("renotice", "epoch stamp noticed settled entries contents", [epoch, *args])

    # Questions ----------------------------------------------------------------------------------------------------

    def entries(self, uris: Sequence[str]) -> list[Entry | None]:
        """What the last look at each document found."""
        return [Entry.from_json(uri, text) if text else None for uri, text in zip(uris, self._entries(uris), strict=True)]

    def _entries(self, uris: Sequence[str]) -> list[str | None]:
        return cast("list[str | None]", self._redis.hmget(self._key("entries"), list(uris))) if uris else []

    def known(self, prefix: str) -> Iterator[Known]:
        """Every document that was present (or dead) at its last look, in ascending byte order of its uri."""
        low, high = f"[{prefix}", b"[" + prefix.encode() + b"\xff"
        while True:
            uris = cast("list[str]", self._redis.zrangebylex(self._key("names"), low, cast("str", high), start=0, num=CHUNK))
            for uri, text in zip(uris, self._entries(uris), strict=True):
                if text and (known := Known.from_json(uri, text)):
                    yield known
            if len(uris) < CHUNK:
                return
            low = f"({uris[-1]}"

    def unanswered(self, prefix: str) -> Iterator[str]:
        """Documents below `prefix` with an event that no look has answered, whoever noticed it. In no order, perhaps twice."""
        for uri, _ in self._redis.zscan_iter(self._key("noticed"), count=CHUNK):
            if uri.startswith(prefix):
                yield uri

    def pending(self, uri: str) -> tuple[int, int]:
        """Stamps of the newest unanswered event and of the unpublished look of one document; 0 where there is none."""
        pipe = self._redis.pipeline()
        pipe.zscore(self._key("noticed"), uri)
        pipe.zscore(self._key("settled"), uri)
        noticed, settled = pipe.execute()
        return _number(noticed), _number(settled)

    def counts(self) -> dict[str, int]:
        """documents, noticed, settled, dead: one number each; oldest: stamp of the oldest unpublished event or look."""
        pipe = self._redis.pipeline()
        pipe.zcard(self._key("names"))
        pipe.zcard(self._key("noticed"))
        pipe.zcard(self._key("settled"))
        pipe.hlen(self._key("dead"))
        for name in ("noticed", "settled"):
            pipe.zrange(self._key(name), 0, 0, withscores=True)
        documents, noticed, settled, dead, *oldest = pipe.execute()
        stamps = [_number(rows[0][1]) for rows in oldest if rows]
        return {"documents": documents, "noticed": noticed, "settled": settled, "dead": dead, "oldest": min(stamps, default=0)}

    # Dead letters -------------------------------------------------------------------------------------------------

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Every document we could not read, in no particular order."""
        for _, text in self._redis.hscan_iter(self._key("dead"), count=CHUNK):
            yield DeadLetter(**json.loads(text))

    def dead_letter(self, uri: str) -> DeadLetter | None:
        text = cast("str | None", self._redis.hget(self._key("dead"), uri))
        return DeadLetter(**json.loads(text)) if text else None

    def forget(self, uri: str) -> None:
        """Forget a dead letter and its attempts, so that the next look tries again."""
        (entry,) = self.entries([uri])
        unread = (entry.stamp, _unread(entry).to_json()) if entry and entry.state is State.DEAD else ()
        self._call("forget", "dead attempts entries", [uri, *unread])

    def drop(self, uri: str) -> None:
        """Take a dead letter off the list. Its entry goes on silencing the listing until the content changes."""
        self._redis.hdel(self._key("dead"), uri)

    # Figures ------------------------------------------------------------------------------------------------------

    def count(self, figures: Mapping[str, float]) -> None:
        """Add to the running totals, by the metrics' own names."""
        pipe = self._redis.pipeline(transaction=False)
        for name, value in figures.items():
            pipe.hincrbyfloat(self._key("totals"), name, value)
        pipe.execute()

    def totals(self) -> dict[str, float]:
        return {name: float(value) for name, value in cast("dict[str, str]", self._redis.hgetall(self._key("totals"))).items()}

    def looked(self) -> int:
        """How many looks came to an end, whatever they found."""
        return int(sum(value for name, value in self.totals().items() if name.startswith("looks|")))

    def note(self, name: str, value: str) -> None:
        """Leave a word for others: a rate, a wish, when something was done."""
        self._redis.set(self._key(f"note:{name}"), value)

    def noted(self, name: str) -> str:
        return cast("str | None", self._redis.get(self._key(f"note:{name}"))) or ""

    def take_note(self, name: str) -> str:
        """Read a word and take it away, so that one reader acts on it."""
        return cast("str | None", self._redis.getdel(self._key(f"note:{name}"))) or ""

    def show_life(self, name: str) -> None:
        """A process is up and able to work."""
        self._redis.hset(self._key("alive"), name, str(time.time()))

    def alive(self) -> list[str]:
        """The processes that showed life lately, by name. Those that have been gone for long are forgotten."""
        now = time.time()
        seen = {name: now - float(at) for name, at in cast("dict[str, str]", self._redis.hgetall(self._key("alive"))).items()}
        gone = [name for name, age in seen.items() if age > GONE_SECONDS]
        if gone:
            self._redis.hdel(self._key("alive"), *gone)
        return sorted(name for name, age in seen.items() if age < ALIVE_SECONDS)

    def fresh(self, seconds: Sequence[float]) -> None:
        """Remember how long events took to become searchable, in seconds."""
        if seconds:
            pipe = self._redis.pipeline()
            pipe.lpush(self._key("freshness"), *(f"{value:.4f}" for value in seconds[-FRESHNESS_SAMPLES:]))
            pipe.ltrim(self._key("freshness"), 0, FRESHNESS_SAMPLES - 1)
            pipe.execute()

    def freshness(self) -> list[float]:
        """The newest event-to-searchable times, in seconds, ascending."""
        return sorted(float(value) for value in cast("list[str]", self._redis.lrange(self._key("freshness"), 0, -1)))

    # Cleanup ------------------------------------------------------------------------------------------------------

    def sweep(self, *, removed_before: int, dead_before: float) -> dict[str, int]:
        """Forget tombstones and dead letters that no look in flight can need any more, and contents nobody has.

        `removed_before` is a stamp; `dead_before` are seconds since the epoch. Returns how many of each went.
        """
        contents, tombstones = self._key("contents"), list[Entry]()
        fresh = f"{contents}:new"
        self._redis.delete(fresh)
        for chunk in _chunks(self._redis.hscan_iter(self._key("entries"), count=CHUNK)):
            entries = [Entry.from_json(uri, text) for uri, text in chunk]
            tombstones += [e for e in entries if e.state is State.REMOVED and e.generation and e.stamp < removed_before]
            live = {e.content_hash: e.shard for e in entries if e.state is State.PRESENT and e.content_hash}
            if live:
                self._redis.hset(fresh, mapping=cast("dict[Any, Any]", live))
        before = int(self._redis.hlen(contents))
        if self._redis.exists(fresh):
            self._redis.rename(fresh, contents)
        for chunk in _chunks(tombstones):
            self._call("sweep", "entries", [part for entry in chunk for part in (entry.uri, entry.stamp)])
        expired = [letter.uri for letter in self.dead_letters() if letter.last_at < dead_before]
        for uri in expired:
            self.drop(uri)
        self._forget_silent()
        after = int(self._redis.hlen(contents))
        return {"tombstones": len(tombstones), "contents": max(0, before - after), "dead": len(expired)}

    def _forget_silent(self) -> None:
        """Forget processes that were last seen a day ago: every container has a name of its own."""
        seen = cast("dict[str, str]", self._redis.hgetall(self._key("alive")))
        silent = [name for name, at in seen.items() if float(at) < time.time() - SILENT_SECONDS]
        if silent:
            self._redis.hdel(self._key("alive"), *silent)

    def shards_in_use(self) -> set[str]:
        """Shards that an unpublished look still needs."""
        return {entry.shard for entry in self.settled(10**9) if entry.shard}
