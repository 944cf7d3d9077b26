"""How it is going: what the watchers leave word of, and what that and the ledger's figures come to.

The ledger knows what was noticed and settled. What was found and not handed over yet, only a watcher knows, and how fast
it goes nobody knows who looks once. So each watcher tells, every second, and the answers are pure functions of what it told.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple, Self

from pipeline.ledger.ledger import Ledger

TELL_SECONDS = 1.0
"""How often a watcher leaves word."""

SAMPLES = 30
"""Words that the documents per second are taken over: longer than a few batches, shorter than anybody's patience."""

STAGES = ("waiting", "embedding", "indexing", "held", "listing", "merging", "idle")
"""What can be going on. Several things can at once; the first of them in the path of a document is named."""


class Rate:
    """Growth of a total per second, over the last `samples` looks at it."""

    def __init__(self, samples: int) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=samples)

    def of(self, total: float, now: float) -> float:
        """`now` in seconds. A total that shrank has begun anew, and grows from there."""
        if self._samples and total < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, total))
        then, before = self._samples[0]
        return (total - before) / (now - then) if now > then else 0.0

    def forget(self) -> None:
        """Nothing is being done: what was measured says nothing about what comes next."""
        self._samples.clear()


class Progress(NamedTuple):
    """What watchers know beside the ledger."""

    waiting: int = 0
    """Documents that were heard of or found, and not handed over yet."""
    listing: bool = False
    """A listing is under way, so that nobody knows yet how many documents it will find."""
    rate: float = 0.0
    """Documents looked at per second, lately; 0 while nothing is open."""

    def to_json(self) -> str:
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(*json.loads(text)) if text else cls()

    @classmethod
    def of_all(cls, told: Iterable[Progress]) -> Self:
        """Several watchers wait for the same workers, so each has measured the speed of all."""
        progress = list(told)
        listing = any(one.listing for one in progress)
        return cls(sum(one.waiting for one in progress), listing, max((one.rate for one in progress), default=0.0))


class Teller:
    """One watcher's word in the ledger."""

    def __init__(self, ledger: Ledger, watcher: str) -> None:
        self._ledger, self._watcher = ledger, watcher
        self._rate = Rate(SAMPLES)
        self._told_at = 0.0

    def tell(self, now: float, waiting: int, *, listing: bool, busy: bool) -> None:
        """Show life; and leave word, unless that was done just now."""
        self._ledger.show_life(self._watcher)
        if now - self._told_at < TELL_SECONDS:
            return
        self._told_at = now
        if not busy:
            self._rate.forget()
        rate = self._rate.of(self._ledger.looked(), now)
        self._ledger.note(f"progress:{self._watcher}", Progress(waiting, listing, rate).to_json())


def told(ledger: Ledger, alive: Iterable[str]) -> Progress:
    """What the living watchers told last."""
    return Progress.of_all(Progress.from_json(ledger.noted(f"progress:{name}")) for name in alive if name.startswith("watch@"))


class Situation(NamedTuple):
    """What is known of all the work at one moment."""

    alive: Collection[str]
    noticed: int
    settled: int
    progress: Progress
    building: bool
    merging: bool
    held: bool


def stage(now: Situation) -> str:
    """One of STAGES. `waiting`: documents wait, and nobody is up who would take the next step."""
    if now.noticed or now.progress.waiting:
        return "embedding" if any("embedding" in name for name in now.alive) else "waiting"
    if now.settled and now.held:
        return "held"
    if now.settled or now.building:
        return "indexing" if any("indexing" in name for name in now.alive) or now.building else "waiting"
    return "listing" if now.progress.listing else "merging" if now.merging else "idle"


def eta(now: Situation) -> float | None:
    """Seconds until what waits now has been looked at; None where nothing waits, or where nobody can know."""
    waits, rate = now.noticed + now.progress.waiting, now.progress.rate
    return round(waits / rate, 1) if waits and rate and not now.progress.listing else None
