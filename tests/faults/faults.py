"""The faults of in-process histories. Each is a function that strikes once, and returns whether it really did."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pipeline import operate
from pipeline.base.errors import CorruptIndex
from pipeline.base.model import Entry
from pipeline.index import upkeep
from pipeline.index.home import Home
from pipeline.index.reader import Reader
from pipeline.sinks.swap import Swap
from pipeline.tasks import embed as embed_module
from pipeline.tasks.build import build
from pipeline.tasks.embed import embed
from pipeline.tasks.maintenance import cleanup
from pipeline.tasks.merge import rebuild
from tests.faults.laboratory import EXPECTED, Killed, Laboratory
from tests.faults.people import Violation
from tests.faults.shims import flipped, replaced

Fault = Callable[[Laboratory], bool]

MOST_WRITES = 30
"""Far more than one publication needs."""

SKEW = 3600.0
"""Seconds."""


# Writes ---------------------------------------------------------------------------------------------------------------


def spoiled_writes(how: str) -> Fault:
    """Every write of one publication goes wrong in turn: the first, the second, and so on, to the last."""

    def strike(lab: Laboratory) -> bool:
        for n in range(1, MOST_WRITES):
            lab.something()
            with lab.writes.spoiling(n, how) as struck:
                publish_all(lab)
                lab.redone += 2  # a shard that was not written, or not as it should be, is embedded again
            if not struck():
                return n > 5
        raise Violation("a publication that never ends")

    return strike


def publish_all(lab: Laboratory) -> None:
    for _ in range(len(lab.messages)):
        lab.deliver()
    lab.attempt(build)


def full_disk(lab: Laboratory) -> bool:
    """The disk of the index has no room for the next publication; then it has."""
    ballast = lab.root / "index" / "ballast"
    with suppress(OSError):
        ballast.write_bytes(b"x" * 2**24)
    lab.something()
    before = lab.generation
    publish_all(lab)
    struck = lab.generation == before
    lab.redone += sum(map(len, lab.messages))
    ballast.unlink()
    return struck


def power_cut(lab: Laboratory) -> bool:
    """In the middle of a publication, or after it, the plug is pulled."""
    lab.something()
    owner, step = lab.chance.choice(
        [(Swap, "publish"), (Home, "commit"), (lab.context.ledger, "published"), (lab.context.ledger, "settle")]
    )
    lab.redone += in_flight(lab)
    with suppress(Killed), lab.once_before(owner, step, die) if lab.chance.random() < 0.7 else nullcontext():
        publish_all(lab)
    published = lab.generation
    lost = lab.plug.pull()
    lab.restart()
    if lab.generation < published:
        lab.violations.append(f"generation {published} was published, and {lab.generation} is what the power cut left")
    lab.complain([f"after a power cut: {problem}" for problem in upkeep.verify_digests(lab.home)])
    return lost >= 0


def die() -> None:
    raise Killed


# Deaths ---------------------------------------------------------------------------------------------------------------


def killed_build(lab: Laboratory) -> bool:
    """A builder dies before or after one of its steps, and lets go of nothing."""
    ledger = lab.context.ledger
    owner, step = lab.chance.choice([(Swap, "publish"), (Home, "commit"), (ledger, "published"), (ledger, "settled")])
    lab.something()
    for _ in range(len(lab.messages)):
        lab.deliver()
    return killed(lab, owner, step, build)


def killed_look(lab: Laboratory) -> bool:
    """An embedding worker dies before or after one of its steps; its message comes again."""
    lab.something()
    step = lab.chance.choice(["begin", "attempt", "settle"])
    message = lab.messages[-1]
    lab.redone += len(message)
    return killed(lab, lab.context.ledger, step, lambda: embed(message, "live"))


def killed(lab: Laboratory, owner: Any, step: str, task: Callable[[], Any]) -> bool:
    real, after, call = getattr(owner, step), lab.chance.random() < 0.5, lab.context.ledger._call

    def dies(*args: Any, **more: Any) -> Any:
        if after:
            real(*args, **more)
        raise Killed

    def dead_hands(script: str, *args: Any) -> Any:
        return None if script == "release" else call(script, *args)

    with lab.instead(owner, step, dies), lab.instead(lab.context.ledger, "_call", dead_hands):
        try:
            lab.attempt(task)
        except Killed:
            return True
    return False


# Rivals ---------------------------------------------------------------------------------------------------------------


def two_builders(lab: Laboratory) -> bool:
    """A builder is frozen past its lease, with its draft ready; another builds; then the first goes on."""
    lab.something()
    for _ in range(len(lab.messages)):
        lab.deliver()
    struck = []

    def other() -> None:
        lab.context.redis.delete(f"{lab.context.ledger.namespace}:build")
        lab.something()
        publish_all(lab)
        struck.append(lab.generation)

    with lab.before_publication(other):
        lab.attempt(build)
    return bool(struck)


def overtaken_merge(lab: Laboratory) -> bool:
    """While a merge runs, documents that it merges are removed and overwritten."""
    for _ in range(2):
        lab.something()
        publish_all(lab)
    struck = []

    def meanwhile() -> None:
        here = sorted(lab.people.here)
        uris = [lab.people.write(lab.chance.choice(here), lab.people.text())]
        uris += lab.people.remove(lab.chance.choice(sorted(lab.people.here)))
        lab.tell(uris)
        publish_all(lab)
        if lab.chance.random() < 0.3:
            lab.attempt(cleanup)
        struck.append(1)

    with lab.before_publication(meanwhile):
        lab.attempt(lambda: rebuild(force=True))
    return bool(struck)


def late_look(lab: Laboratory) -> bool:
    """A look that began before a write settles after the look that saw the write."""
    name = lab.chance.choice(sorted(lab.people.here))
    lab.tell([lab.people.write(name, lab.people.text())])
    message = lab.messages.pop()
    struck = []
    real = embed_module.read

    def read(*args: Any) -> Any:
        reading = real(*args)
        if not struck:
            struck.append(1)
            if lab.chance.random() < 0.5:
                lab.tell([lab.people.write(name, lab.people.text())])
            else:
                lab.tell(lab.people.remove(name))
            lab.attempt(lambda: embed(lab.messages.pop(), "live"))
            if lab.chance.random() < 0.5:
                lab.attempt(build)
        return reading

    with lab.instead(embed_module, "read", read):
        lab.attempt(lambda: embed(message, "live"))
    follows_events(lab, name)
    return bool(struck)


def follows_events(lab: Laboratory, name: str) -> None:
    """No event of this document was lost, so no listing may be needed: what the relay does is enough."""
    for _ in range(3):
        time.sleep(0.011)
        publish_all(lab)
        lab.attempt(lambda: embed(list(lab.context.ledger.unanswered("")), "live"))
    lab.attempt(build)
    uri = lab.people.place.uri(name)
    if lab.pipeline.published().get(uri) != lab.people.place.contents().get(uri):
        lab.violations.append(f"the index has not what the last look found of {name}")


# Messages -------------------------------------------------------------------------------------------------------------


def doubled_messages(lab: Laboratory) -> bool:
    """Each message comes twice, and the second one while the first is worked on."""
    lab.something()
    lab.messages += [list(message) for message in lab.messages]
    message, before = lab.messages[-1], lab.embeddings
    struck = []

    def again() -> None:
        struck.append(1)
        embed(list(message), "live")

    with lab.instead(embed_module, "MOTION_SECONDS", 0.0), claims_of(lab, 15.0), lab.once_before(embed_module, "write_shard", again):
        lab.attempt(lambda: embed(message, "live"))
    if lab.embeddings > before + 1:
        lab.violations.append("a doubled message was embedded twice")
    publish_all(lab)
    return bool(struck)


def claims_of(lab: Laboratory, seconds: float) -> Any:
    from pipeline.ledger import ledger

    return lab.instead(ledger, "CLAIM_SECONDS", seconds)


def lost_messages(lab: Laboratory) -> bool:
    lab.something()
    lost = len(lab.messages)
    lab.messages.clear()
    return bool(lost)


def reordered_messages(lab: Laboratory) -> bool:
    for _ in range(3):
        lab.something()
    lab.messages.reverse()
    lab.chance.shuffle(lab.messages)
    publish_all(lab)
    return True


# Memory ---------------------------------------------------------------------------------------------------------------


def flushed(lab: Laboratory) -> bool:
    lab.redone += in_flight(lab)
    lab.context.redis.flushall()
    return True


def in_flight(lab: Laboratory) -> int:
    """Documents that were looked at, or may be, and are in no generation yet."""
    with suppress(*EXPECTED):
        counts = lab.context.ledger.counts()
        return int(counts["noticed"] + counts["settled"]) + 2
    return len(lab.people.here)


def flushed_during_build(lab: Laboratory) -> bool:
    """Redis forgets everything in the middle of a build that publishes a removal, and is taught what was published before it.

    Then the document comes back as it was: who takes the old memory for the truth sees nothing to do.
    """
    if not lab.people.here:
        lab.tell(lab.people.put())
        publish_all(lab)
    for _ in range(len(lab.messages)):
        lab.deliver()
    lab.attempt(build)
    lab.tell(lab.people.park())
    lab.deliver()
    lab.redone += in_flight(lab) + len(lab.people.here)
    struck = []

    def flush() -> None:
        lab.context.redis.flushall()
        lab.context.seed()
        struck.append(1)

    with lab.before_publication(flush):
        lab.attempt(build)
    lab.people.unpark()
    return bool(struck)


def flushed_during_look(lab: Laboratory) -> bool:
    lab.something()
    lab.redone += in_flight(lab)
    struck = []

    def flush() -> None:
        lab.context.redis.flushall()
        struck.append(1)

    with lab.once_before(embed_module, "work", flush):
        lab.deliver()
    return bool(struck)


# Clocks ---------------------------------------------------------------------------------------------------------------


def clock_of_host(offset: float) -> Fault:
    """This host's clock is wrong for a while, then it is set."""

    def strike(lab: Laboratory) -> bool:
        real = time.time
        with lab.instead(time, "time", lambda: real() + offset):
            for _ in range(6):
                lab.step()
            lab.something()
            publish_all(lab)
        return True

    return strike


def clock_of_redis(offset: float) -> Fault:
    """The server that hands out stamps was set to another time: the last stamp lies far ahead of its clock, or far behind."""

    def strike(lab: Laboratory) -> bool:
        newest = max(stamps(lab), default=0)  # stamps rise, whatever the clock does
        lab.context.redis.set(f"{lab.context.ledger.namespace}:stamp", max(newest, int((time.time() + offset) * 1e6)))
        for _ in range(4):
            lab.step()
        return True

    return strike


def stamps(lab: Laboratory) -> Iterator[int]:
    """Every stamp that was handed out and is remembered somewhere."""
    redis, namespace = lab.context.redis, lab.context.ledger.namespace
    for name in ("noticed", "settled"):
        yield from (int(stamp) for _, stamp in redis.zscan_iter(f"{namespace}:{name}"))
    yield from (Entry.from_json(uri, text).stamp for uri, text in redis.hscan_iter(f"{namespace}:entries"))
    snapshot = lab.context.building().snapshot()
    yield from (document.stamp for document in (snapshot.documents() if snapshot else ()))


# Damage ---------------------------------------------------------------------------------------------------------------


def damaged(kind: str) -> Fault:
    """A byte of a published file is another one. It must be noticed and refused, and there must be a way back."""

    def strike(lab: Laboratory) -> bool:
        rest_quietly(lab)
        path = victim(lab, kind)
        if path is None:
            return False
        serving = lab.questioner.reader.generation
        replaced(path, flipped(path.read_bytes(), lab.chance.randrange(2**20)))
        lab.restart()
        lab.complain(unnoticed(lab, serving))
        lab.redone += len(lab.people.here) + in_flight(lab)
        lab.people.gone.clear()  # an earlier generation may come back
        recover(lab)
        return True

    return strike


def rest_quietly(lab: Laboratory) -> None:
    """Publish, so that the reader has the damaged generation open from before."""
    lab.something()
    publish_all(lab)
    lab.questioner.reader.refresh()


def victim(lab: Laboratory, kind: str) -> Path | None:
    found = lab.home.current()
    if found is None:
        return None
    names = {
        "segment": [name for ref in found[0].segments for name in ref.files],
        "deletes": [ref.deletes.name for ref in found[0].segments if ref.deletes],
        "manifest": [found[0].name],
        "CURRENT": ["CURRENT"],
    }[kind]
    return lab.root / "index" / lab.chance.choice(sorted(names)) if names else None


def unnoticed(lab: Laboratory, serving: int) -> Iterator[str]:
    """Who did not notice the damage."""
    if not upkeep.verify_digests(lab.home):
        yield "verify did not notice the damage"
    with Reader.open(lab.fresh_store(), refresh_every=0) as reader:
        if reader.snapshot:
            yield "a reader has opened what is damaged"
    lab.questioner.reader.refresh()
    if lab.questioner.reader.generation != serving:
        yield "an open reader has left its snapshot"
    lab.something()
    before = lab.generation
    publish_all(lab)
    if before and lab.generation > before and upkeep.verify_digests(lab.home):
        yield "a generation was published upon what is damaged"


def recover(lab: Laboratory) -> None:
    """As the runbook says: roll back to a generation that is whole; where there is none, begin with nothing."""
    home = lab.context.home
    for generation in range(lab.generation, max(0, lab.generation - 3), -1):
        with suppress(CorruptIndex):
            upkeep.rollback(home, generation)
            operate.resume(lab.context)
            return
    for path in sorted((lab.root / "index").rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() else path.rmdir()
    lab.context.redis.flushall()
    lab.restart()
    lab.begin_anew()


FOLDER_FAULTS: dict[str, Fault] = {
    "blob write fails, each in turn": spoiled_writes("fails"),
    "blob write ends half way, each in turn": spoiled_writes("ends half way"),
    "blob write cut short in silence, each in turn": spoiled_writes("cut short"),
    "bit flipped on write, each in turn": spoiled_writes("bent"),
    "power cut": power_cut,
    "builder killed between two steps": killed_build,
    "embedder killed between two steps": killed_look,
    "two builders hold the lease": two_builders,
    "merge overtaken by removals": overtaken_merge,
    "older look settles last": late_look,
    "messages doubled": doubled_messages,
    "messages lost": lost_messages,
    "messages reordered": reordered_messages,
    "Redis flushed": flushed,
    "Redis flushed during a build": flushed_during_build,
    "Redis flushed during a look": flushed_during_look,
    "host's clock ahead": clock_of_host(SKEW),
    "host's clock behind": clock_of_host(-SKEW),
    "Redis' clock was ahead": clock_of_redis(SKEW),
    "Redis' clock was behind": clock_of_redis(-SKEW),
    "segment byte changed": damaged("segment"),
    "deletes byte changed": damaged("deletes"),
    "manifest byte changed": damaged("manifest"),
    "CURRENT byte changed": damaged("CURRENT"),
}


class SmallDisk(Laboratory):
    """A history whose index lies on a file system of its own, of a few hundred kilobytes."""

    def __enter__(self) -> Laboratory:
        (self.root / "index").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", self.root / "index"], check=True)
        return super().__enter__()

    def __exit__(self, *args: object) -> None:
        self.questioner.close()
        subprocess.run(["umount", "--lazy", self.root / "index"], check=True)
        super().__exit__(*args)


def can_mount() -> bool:
    """Whether this user may mount a small tmpfs."""
    return os.geteuid() == 0 and Path("/proc/filesystems").read_text().find("tmpfs") >= 0
