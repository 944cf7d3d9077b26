"""The relay: watch → hand-overs → acknowledgement. It remembers nothing that the ledger or the source could not tell again.

It hands over at once when idle; what arrives meanwhile is the next hand-over, so batches grow under load by themselves.
A few batches are in flight per embedding worker and no more. Live events have a place of their own, so a dropped file
waits for a batch and not for the backlog. A delivery is acknowledged when the ledger says that every event in it is done.
"""

from __future__ import annotations

import logging
import math
import queue
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Protocol

from redis.exceptions import RedisError

from pipeline.base.errors import DropdexError, TooManyRemovals, Unavailable
from pipeline.base.model import Delivery, DocumentEvent, Origin, Overflow
from pipeline.base.settings import Settings
from pipeline.ledger.ledger import Claim, Ledger, Standing
from pipeline.ledger.progress import Teller
from pipeline.relay.backfill import Backfill
from pipeline.relay.reconcile import DUE
from pipeline.sources import Source

log = logging.getLogger(__name__)

FIRST_BATCH = 32
"""Documents in a batch before any rate was measured."""

UNCLAIMED_SECONDS = 60.0
"""How long a handed-over event may wait without a look at it before its message counts as lost."""

CLAIM_CHECK_SECONDS = 2.0
"""How often events that wait longer than this are checked for a worker that died over them."""

NUDGE_SECONDS = 5.0
"""How long settled looks may wait, with nothing in flight, before a build is asked for again."""

RELIST_SECONDS = 30.0
"""How long after a listing that broke off, as its source or Redis was away, it is begun again."""

LIVELY_SECONDS = 2.0
"""How long after a live event batches of backfill stay small."""


class Flow(Protocol):
    """The Celery side, as far as the relay needs it."""

    def hand_over(self, batches: Iterable[Sequence[str]], origin: Origin) -> None:
        """Submit the batches as one chord. Raises Unavailable."""

    def request_build(self) -> None:
        """Ask for a build of what has settled. Raises Unavailable."""


@dataclass(slots=True, eq=False)
class Receipt:
    """A delivery and how many of its events are not done yet."""

    delivery: Delivery
    left: int


@dataclass(slots=True, eq=False)
class Batch:
    """What one message of the embedding queue carries: in flight until every one of its documents was looked at."""

    handed_at: float
    unlooked: set[str]


@dataclass(slots=True, eq=False)
class Pending:
    """One document with an event that is not done. `batch` is None until it is handed over, and again once looked at."""

    event: DocumentEvent
    receipts: list[Receipt] = field(default_factory=list)
    stamp: int = 0
    noticed_at: float = 0.0
    batch: Batch | None = None


Heard = tuple[Source, Delivery | Overflow | DropdexError]
"""What a watch told: events, the loss of events, or that it cannot go on."""


def batch_size(rate: float, seconds: float, most: int) -> int:
    """Documents that are `seconds` of work at `rate` documents a second; between 1 and `most`."""
    return max(1, min(most, int(rate * seconds) if rate else FIRST_BATCH))


class Relay:
    """One watcher's loop. `seed` makes a ledger that lost its memory usable again and returns its epoch."""

    def __init__(self, sources: Sequence[Source], ledger: Ledger, flow: Flow, seed: Callable[[], str], settings: Settings) -> None:
        self._sources, self._ledger, self._flow, self._seed, self._settings = sources, ledger, flow, seed, settings
        self._inbox: queue.Queue[Heard] = queue.Queue(maxsize=100)
        self._heard: deque[Heard] = deque()
        self._live: dict[str, Pending] = {}
        self._open: dict[str, Pending] = {}
        self._batches: list[Batch] = []
        self._backfills: deque[Backfill] = deque()
        self._unlisted = {source.root for source in sources}
        self._epoch = ""
        self._workers = settings.workers
        self._teller = Teller(ledger, f"watch@{socket.gethostname()}")
        self._last_live = self._last_poll = self._last_claim_check = 0.0
        self._unbuilt_since = self._relist_at = math.inf

    # Life ---------------------------------------------------------------------------------------------------------

    def run(self, stop: Event) -> None:
        """Watch, reconcile and hand over until `stop` is set. Raises what makes a source or the ledger unusable."""
        for source in self._sources:
            source.check()
        for source in self._sources:
            Thread(target=self._watch, args=(source, stop), name=f"watch {source.root}", daemon=True).start()
        self._loop(stop, lambda: False)

    def reconcile_once(self, stop: Event, *, allow_removals: bool = False) -> int:
        """Bring the index up to date with the sources and return how many differences there were."""
        for source in self._sources:
            source.check()
        self._epoch = self._seed()
        backfill = self._reconcile(allow_removals=allow_removals)
        self._loop(stop, lambda: not (self._live or self._open or self._backfills))
        if backfill.error:
            raise backfill.error
        return backfill.found

    def _loop(self, stop: Event, finished: Callable[[], bool]) -> None:
        try:
            while not stop.is_set() and not finished():
                try:
                    self._turn()
                except (RedisError, Unavailable) as error:
                    log.warning("redis is away, waiting", extra={"action": "wait", "reason": str(error)})
                    stop.wait(1.0)
        finally:
            self._leave()

    def _watch(self, source: Source, stop: Event) -> None:
        while not stop.is_set():
            try:
                for item in source.watch(stop):
                    self._inbox.put((source, item))
            except Unavailable as error:
                log.warning("watch broke, arming it again", extra={"action": "watch", "reason": str(error)})
                stop.wait(2.0)
            except DropdexError as error:
                self._inbox.put((source, error))
                return
            except Exception as error:  # a relay that no longer hears its source must not look as if all were well
                log.exception("watch broke", extra={"action": "watch"})
                self._inbox.put((source, DropdexError(f"watching {source.root} broke: {error!r}")))
                return

    def _leave(self) -> None:
        """Give back what is not done, so that the source delivers it again at once."""
        for backfill in self._backfills:
            backfill.cancel()
        receipts = {receipt for pending in (*self._live.values(), *self._open.values()) for receipt in pending.receipts}
        self._hear()
        unaccepted = [item for _, item in self._heard if isinstance(item, Delivery)]
        for delivery in (*(receipt.delivery for receipt in receipts), *unaccepted):
            delivery.release()

    # One turn -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._listen()
        while self._heard:  # an item leaves once it is accepted, so a server that is away loses none
            self._accept(*self._heard[0])
            self._heard.popleft()
        now = time.monotonic()
        self._poll(now)
        self._end_backfills()
        self._hand_over(time.monotonic())  # a reconcile may have begun since `now`, and what goes now is noticed after that

    def _listen(self) -> None:
        """Wait for what the watches hear. Beyond the window nothing is heard, and the source has to wait."""
        pause = self._pause()
        room = self._settings.window - len(self._open) - len(self._live)
        if room <= 0:
            time.sleep(pause)
        else:
            self._hear(room, pause)

    def _pause(self) -> float:
        """Short where differences wait to be handed over; longer while a listing has found none, as it needs the interpreter itself."""
        if any(backfill.waiting for backfill in self._backfills):
            return 0.01
        pause = self._poll_interval() if self._open else 0.25
        return min(pause, 0.05) if self._backfills else pause

    def _hear(self, room: float = math.inf, pause: float | None = None) -> None:
        """Take from the inbox until it is empty or about `room` events were taken; wait `pause` seconds for the first."""
        try:
            while room > 0:
                item = self._inbox.get(block=pause is not None, timeout=pause)
                self._heard.append(item)
                room -= len(item[1].events) if isinstance(item[1], Delivery) else 0
                pause = None
        except queue.Empty:
            return

    def _accept(self, source: Source, item: Delivery | Overflow | DropdexError) -> None:
        match item:
            case DropdexError():
                raise item
            case Overflow(root):  # below the root a folder was moved away: its removals are meant, so no guard stops them
                self._reconcile(prefix=root, allow_removals=root != source.root)
            case Delivery(events=()):  # the watch is armed: what came before it shows in the listing
                self._reconcile(prefix=source.root)
                item.ack()
            case Delivery():
                receipt = Receipt(item, len(item.events))
                for event in item.events:
                    self._live.setdefault(event.uri, Pending(event)).receipts.append(receipt)

    def _reconcile(self, *, prefix: str = "", allow_removals: bool = False) -> Backfill:
        self._epoch = self._epoch or self._seed()
        backfill = Backfill(self._sources, self._ledger, self._settings.removal_guard, prefix=prefix, allow_removals=allow_removals)
        self._backfills.append(backfill)
        log.info("reconcile begins", extra={"action": "reconcile", "prefix": prefix})
        return backfill

    def _lists_all(self) -> bool:
        prefixes = {backfill.prefix for backfill in self._backfills if backfill.listing}
        return "" in prefixes or all(source.root in prefixes for source in self._sources)

    def _end_backfills(self) -> None:
        while self._backfills and self._backfills[0].done:
            backfill = self._backfills[0]
            if backfill.error:
                log.error("reconcile stopped", extra={"action": "reconcile", "reason": str(backfill.error), "hint": backfill.error.hint})
                self._ledger.note(
                    "refused", f"{backfill.error}; {backfill.error.hint}" if isinstance(backfill.error, TooManyRemovals) else ""
                )
                if isinstance(backfill.error, Unavailable):
                    self._relist_at = time.monotonic() + RELIST_SECONDS
            else:
                self._ledger.note("refused", "")
                self._listed(backfill)
                log.info("reconcile ended", extra={"action": "reconcile", "found": backfill.found})
            self._backfills.popleft()

    def _listed(self, backfill: Backfill) -> None:
        """Leave word once every source was listed as a whole: until then nobody knows whether the index is complete."""
        self._unlisted = {root for root in self._unlisted if backfill.prefix not in ("", root)}
        if not self._unlisted:
            self._ledger.note("reconciled", str(time.time()))

    # What became of it --------------------------------------------------------------------------------------------

    def _poll_interval(self) -> float:
        """Short while few events are open, so that one dropped file is acknowledged at once; long while many are."""
        return min(0.02 + len(self._open) / 2000, 0.2)

    def _poll(self, now: float) -> None:
        if now - self._last_poll < (self._poll_interval() if self._open else 0.25):
            return
        self._last_poll = now
        self._tell(now)
        lists_all = self._lists_all()  # before the wish is taken: a listing that ends in between answers it, too
        wish = self._ledger.take_note("reconcile")
        if wish:
            self._seed()  # an index that somebody restored or emptied is noticed here where no build would
        if self._epoch and self._ledger.epoch() != self._epoch:
            self._relearn()
        if (wish and not (wish == DUE and lists_all)) or now >= self._relist_at:
            self._relist_at = math.inf
            self._reconcile(allow_removals=wish == "allow-removals")
        standings = self._ledger.standings(self._epoch, {uri: pending.stamp for uri, pending in self._open.items()})
        for uri, standing in standings.items():
            taken_back = standing is Standing.NOTICED and self._open[uri].batch is None
            if standing is Standing.LOST or taken_back:
                self._again(uri)
            elif standing is not Standing.NOTICED:
                self._looked(self._open[uri], uri)
                if standing is Standing.DONE:
                    self._done(self._open.pop(uri))
        self._batches = [batch for batch in self._batches if batch.unlooked]
        self._watch_over(now, standings)

    def _tell(self, now: float) -> None:
        waiting = len(self._live) + sum(backfill.waiting for backfill in self._backfills)
        listing = any(backfill.listing for backfill in self._backfills)
        self._teller.tell(now, waiting, listing=listing, busy=bool(self._open or self._live or self._backfills))

    def _looked(self, pending: Pending, uri: str) -> None:
        if pending.batch:
            pending.batch.unlooked.discard(uri)
            pending.batch = None

    def _done(self, pending: Pending) -> None:
        for receipt in pending.receipts:
            receipt.left -= 1
            if receipt.left == 0:
                receipt.delivery.ack()

    def _again(self, uri: str) -> None:
        """Hand an open event over once more; its deliveries go on waiting for it."""
        pending = self._open.pop(uri)
        self._looked(pending, uri)
        waiting = self._live.setdefault(uri, Pending(pending.event))
        waiting.receipts += pending.receipts

    def _watch_over(self, now: float, standings: dict[str, Standing]) -> None:
        """Find messages that were lost and workers that died, and builds that never came."""
        if now - self._last_claim_check >= CLAIM_CHECK_SECONDS:
            self._last_claim_check = now
            self._workers = max(self._settings.workers, sum(name.startswith("embedding") for name in self._ledger.alive()))
            late = [uri for b in self._batches if now - b.handed_at > CLAIM_CHECK_SECONDS for uri in b.unlooked if uri in self._open]
            for uri, claim in zip(late, self._ledger.claims(late), strict=True):
                batch = self._open[uri].batch
                overdue = batch is not None and now - batch.handed_at > UNCLAIMED_SECONDS
                if claim is Claim.EXPIRED or (claim is Claim.NONE and overdue):
                    self._again(uri)
        if self._batches or Standing.SETTLED not in standings.values():
            self._unbuilt_since = math.inf
        elif self._unbuilt_since == math.inf:
            self._unbuilt_since = now
        elif now - self._unbuilt_since > NUDGE_SECONDS:
            self._flow.request_build()
            self._unbuilt_since = now

    # Hand-over ----------------------------------------------------------------------------------------------------

    def _hand_over(self, now: float) -> None:
        self._submit(self._live_batches(now), Origin.LIVE, now)
        self._submit(self._backfill_batches(now), Origin.BACKFILL, now)

    def _submit(self, batches: list[list[Pending]], origin: Origin, now: float) -> None:
        """Notice, then submit: an event is in the ledger before any worker can hear of it."""
        if not batches:
            return
        uris = [[pending.event.uri for pending in batch] for batch in batches]
        try:
            stamp = self._notice([uri for batch in uris for uri in batch])
            self._flow.hand_over(uris, origin)
        except (RedisError, Unavailable):
            self._live.update({pending.event.uri: pending for batch in batches for pending in batch})
            raise
        for batch in batches:
            self._open_batch(batch, stamp, now)

    def _live_batches(self, now: float) -> list[list[Pending]]:
        """Everything that waits, in as many batches as have room: one place more than backfill may take."""
        if self._live:
            self._last_live = now
        places = (self._settings.inflight_batches + 1) * self._workers
        size = self._live_size(places) if self._live and places > len(self._batches) else 0
        batches: list[list[Pending]] = []
        while self._live and places > len(self._batches) + len(batches):
            batches.append([self._live.pop(uri) for uri in list(self._live)[:size]])
        return batches

    def _live_size(self, places: int) -> int:
        """Small batches, so that nobody waits for others; where so much waits that everybody does, large ones, which cost less."""
        small, large = self._size(self._settings.live_batch_seconds), self._size(self._settings.backfill_batch_seconds)
        return small if len(self._live) <= small * places else large

    def _size(self, seconds: float) -> int:
        return batch_size(self._rate(), seconds, self._settings.max_batch)

    def _backfill_batches(self, now: float) -> list[list[Pending]]:
        room = self._settings.inflight_batches * self._workers - len(self._batches)
        window = self._settings.window - len(self._open)
        if room <= 0 or not self._backfills or window <= 0:
            return []
        lively = now - self._last_live < LIVELY_SECONDS
        seconds = self._settings.live_batch_seconds if lively else self._settings.backfill_batch_seconds
        size = self._size(seconds)
        batches: list[list[Pending]] = []
        for backfill in list(self._backfills):
            while room > len(batches) and (events := backfill.take(min(size, window), self._settings.max_batch_bytes)):
                window -= len(events)
                new = {event.uri: Pending(event) for event in events if not self._will_see(event.uri, backfill.began)}
                batches.append(list(new.values()))
        return [batch for batch in batches if batch]

    def _will_see(self, uri: str, moment: float) -> bool:
        """Whether an event that waits already brings a look that begins after `moment`. An older one may be looking at the past."""
        return uri in self._live or (uri in self._open and self._open[uri].noticed_at >= moment)

    def _rate(self) -> float:
        """Documents a second that one batch in flight gets through, as the workers measured it; 0 while nobody has."""
        return float(self._ledger.noted("rate") or 0)

    def _notice(self, uris: list[str]) -> int:
        while (stamp := self._ledger.notice(self._epoch, uris)) is None:
            self._relearn()
        return stamp

    def _relearn(self) -> None:
        """Teach a ledger that lost its memory what is published, and list everything: only the sources know the rest."""
        log.warning("the ledger lost its memory, seeding it", extra={"action": "seed"})
        self._epoch = self._seed()
        self._unlisted = {source.root for source in self._sources}
        self._reconcile()

    def _open_batch(self, members: list[Pending], stamp: int, now: float) -> None:
        batch = Batch(now, {pending.event.uri for pending in members})
        self._batches.append(batch)
        for pending in members:
            uri = pending.event.uri
            older = self._open.pop(uri, None)
            if older:
                self._looked(older, uri)
                pending.receipts += older.receipts
            pending.stamp, pending.noticed_at, pending.batch = stamp, now, batch
            self._open[uri] = pending
