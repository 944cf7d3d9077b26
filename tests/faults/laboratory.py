"""Histories whose tasks run in this process, so that a fault strikes exactly where it is meant to.

What a fault does is in faults.py and bucket.py. Here is how a history runs, how it comes to rest, and what must hold then.
"""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from pipeline.base.errors import DropdexError
from pipeline.blobs import BlobStore
from pipeline.blobs.folder import FolderStore
from pipeline.embedder.hashing import HashEmbedder
from pipeline.index.home import Home
from pipeline.index.upkeep import verify_digests
from pipeline.ledger import ledger as ledger_module
from pipeline.sinks.swap import Swap
from pipeline.sources.folder import source as folder_module
from pipeline.tasks.build import build
from pipeline.tasks.embed import embed
from pipeline.tasks.maintenance import cleanup
from pipeline.tasks.merge import merge, rebuild
from tests.faults.people import People, Place, Questioner, Violation, leftovers, whole
from tests.faults.shims import Plug, Writes
from tests.support import Pipeline

ROUNDS = 12
"""Listings and builds after which a history must have come to rest."""

EXPECTED = (DropdexError, RedisError, OSError)
"""What a task may raise when it is disturbed: Celery would run it again."""


class Killed(BaseException):
    """A kill -9: nothing below can catch it."""


class Laboratory:
    """One pipeline in a folder of its own, with its people, a reader that asks, and messages on their way."""

    def __init__(self, broker: str, seed: int, *, parent: Path | None = None) -> None:
        self.seed, self.chance = seed, random.Random(seed)
        self.root = Path(tempfile.mkdtemp(prefix="history-", dir=parent or fast_folder()))
        self.patch = pytest.MonkeyPatch()
        self.messages: list[list[str]] = []
        self.hits: Counter[str] = Counter()
        self.violations: list[str] = []
        self.redone = 0
        """Embeddings that the faults so far excuse."""
        self.embeddings = 0
        self.generations = 0
        self._broker = broker

    # Life ---------------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, object]:
        return {}

    def make_place(self) -> Place:
        return self.pipeline.folder

    def fresh_store(self) -> BlobStore:
        """A way to the index that no fault disturbs."""
        return FolderStore(self.root / "index")

    def __enter__(self) -> Laboratory:
        options = {"merge_factor": 3, "orphan_seconds": 0, "keep_generations": 2, "max_attempts": 10**6, **self.settings()}
        self.pipeline = Pipeline(self.root, self._broker, **options)
        self.pipeline.__enter__()
        self.pipeline.context.redis.flushall()
        self.patch.setattr(ledger_module, "CLAIM_SECONDS", 0.01)  # the dead don't keep the living waiting
        self.patch.setattr(folder_module, "TICK", 0.0)
        self.people = People(self.make_place(), self.chance)
        self.writes = Writes(type(self.pipeline.context.blobs), self.patch, self._moved)
        self.plug = Plug(self.root / "index", self.patch)
        self._count_embeddings()
        self.questioner = Questioner(self.fresh_store(), self.people)
        return self

    def __exit__(self, *_: object) -> None:
        self.questioner.close()
        self.patch.undo()
        self.pipeline.__exit__(None, None, None)
        shutil.rmtree(self.root, ignore_errors=True)

    def _count_embeddings(self) -> None:
        real = HashEmbedder.embed

        def counted(embedder: Any, texts: Sequence[str], ids: Any = None) -> Any:
            self.embeddings += len(texts) if ids is not None else 0  # queries come without
            return real(embedder, texts, ids)

        self.patch.setattr(HashEmbedder, "embed", counted)

    def _moved(self) -> None:
        """The pointer has moved: what it points to must be complete, now."""
        self.generations += 1
        self.complain(f"published: {problem}" for problem in whole(Home(self.fresh_store())))

    def complain(self, problems: Iterator[str] | Sequence[str]) -> None:
        self.violations += problems

    @property
    def context(self) -> Any:
        return self.pipeline.context

    @property
    def home(self) -> Home:
        return Home(self.fresh_store())

    @property
    def generation(self) -> int:
        with suppress(DropdexError):
            found = self.home.pointer()
            return found[0].generation if found else 0
        return 0

    def restart(self) -> None:
        """All processes end, and others begin."""
        self.pipeline.__exit__(None, None, None)
        gc.collect()
        self.pipeline.__enter__()

    def begin_anew(self) -> None:
        """An index that was thrown away counts from 1 again, so its reader is opened anew."""
        old = self.questioner
        old.close()
        self.people.gone.clear()
        self.questioner = Questioner(self.fresh_store(), self.people)
        self.questioner.asked, self.questioner.failures = old.asked, old.failures

    # A history ----------------------------------------------------------------------------------------------------

    def run(self, faults: Sequence[tuple[str, Callable[[Laboratory], bool]]], *, steps: int = 24) -> None:
        """Random operations and tasks, the faults among them; then everything must come to rest, and be right."""
        self.begin()
        moments = sorted(self.chance.sample(range(4, steps), len(faults)))
        for number in range(steps):
            if number in moments:
                name, fault = faults[moments.index(number)]
                self.hits[name] += fault(self)
            else:
                self.step()
        self.rest()
        self.check()

    def begin(self) -> None:
        """A few documents that are published before anything goes wrong."""
        self.tell([uri for _ in range(5) for uri in self.people.put()])
        self.deliver()
        self.attempt(build)

    def step(self) -> None:
        """Somebody does something, or some task runs."""
        choice = self.chance.random()
        if choice < 0.5:
            self.tell(self.people.step(), lost=self.chance.random() < 0.15)
        elif choice < 0.75:
            self.deliver()
        elif choice < 0.93:
            self.attempt(build)
        elif choice < 0.97:
            self.attempt(merge)
        else:
            self.attempt(cleanup)

    def tell(self, uris: Sequence[str], *, lost: bool = False) -> None:
        """An event: noticed and handed over, as the relay does it, or lost on its way."""
        if uris and not lost:
            with suppress(*EXPECTED):
                self.pipeline.notice(*uris)
                self.messages.append(list(dict.fromkeys(uris)))

    def deliver(self) -> None:
        """Some message reaches a worker; where its task fails, it is run again later."""
        if self.messages:
            message = self.messages.pop(self.chance.randrange(len(self.messages)))
            if not self.attempt(lambda: embed(message, "live")):
                self.messages.append(message)

    def attempt(self, task: Callable[[], Any]) -> bool:
        try:
            task()
        except EXPECTED:
            return False
        return True

    def something(self) -> None:
        """A change that has to be published: a write and a removal."""
        uris = self.people.put()
        if len(self.people.here) > 2:
            uris += self.people.remove(self.chance.choice(sorted(self.people.here)))
        self.tell(uris)

    @contextmanager
    def instead(self, owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, function)
            yield

    @contextmanager
    def once_before(self, owner: Any, name: str, happens: Callable[[], None]) -> Iterator[None]:
        """Something happens before the first such call, while its caller waits."""
        real, left = getattr(owner, name), [happens]

        def called(*args: Any, **more: Any) -> Any:
            if left:
                left.pop()()
            return real(*args, **more)

        with self.instead(owner, name, called):
            yield

    @contextmanager
    def before_publication(self, happens: Callable[[], None]) -> Iterator[None]:
        with self.once_before(Swap, "publish", happens):
            yield

    # Rest ---------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """No more trouble: what is under way ends, then listings and builds until nothing differs and nothing waits."""
        for message in self.messages:
            embed(message, "live")
        self.messages.clear()
        for _ in range(ROUNDS):
            build()
            uris = {event.uri for event in self.pipeline.differences()} | set(self.context.ledger.unanswered(""))
            if not uris:
                return
            time.sleep(0.011)  # claims of the dead expire
            self.pipeline.look(*uris, origin="backfill")
        raise Violation(f"no rest after {ROUNDS} listings: {sorted(uris)[:3]}")

    def check(self) -> None:
        """All that must hold when a history has come to rest."""
        self.same()
        self.questioner.reader.refresh()
        for query in (*self.people.here.values(), "whale", "nothing"):
            self.questioner.ask(query)
        self.complain([f"a query failed: {failure}" for failure in self.questioner.failures])
        if not self.questioner.asked:
            self.violations.append("nobody asked")
        if self.embeddings > self.people.contents + self.redone:
            self.violations.append(f"{self.embeddings} embeddings of {self.people.contents} contents, {self.redone} excused")
        self.tidy()

    def same(self) -> None:
        """The index says what the source says, and nothing waits."""
        expected, found = self.people.expected(), self.pipeline.published()
        if found != expected:
            wrong = sorted(uri for uri in expected.keys() | found.keys() if expected.get(uri) != found.get(uri))
            self.violations.append(f"index differs from source in {len(wrong)} documents, such as {wrong[0].rpartition('/')[2]}")
        counts = self.context.ledger.counts()
        if counts["noticed"] or counts["settled"] or counts["dead"]:
            self.violations.append(f"not at rest: {counts}")
        self.complain(verify_digests(self.home))
        if found == expected:
            self.people.published(self.generation)

    def tidy(self) -> None:
        """After a merge and a cleanup the disk holds what the kept generations need, and nothing else."""
        rebuild(force=True)
        cleanup()
        home = self.home
        kept = home.generations(2)
        needed = {name for manifest in kept for name in (manifest.name, *manifest.names)} | {"CURRENT"}
        there = {info.name for info in self.fresh_store().list("")}
        if there != needed:
            self.violations.append(f"left in the index: {sorted(there - needed)[:3]}, missing: {sorted(needed - there)[:3]}")
        self.restart()  # what a process may still need goes with it
        FolderStore(self.root / "index").sweep(0)  # as it happens a day later
        left = [*leftovers(self.root / "index" / ".tmp"), *leftovers(self.root / "state" / "scratch")]
        self.complain([f"left behind: {path.name}" for path in left if "cache" not in path.parts])
        self.same()


def fast_folder() -> Path:
    """Where fsync costs nothing."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())
