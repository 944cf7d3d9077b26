"""Histories of real processes: one long-lived pipeline that goes on from history to history, and somebody who kills it.

Its faults strike processes, Redis and the messages that wait there. The index is followed by a reader that asks all the time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
from redis.exceptions import RedisError

from pipeline.base.errors import DropdexError
from pipeline.base.settings import load
from pipeline.blobs.folder import FolderStore
from pipeline.broker.valkey import EmbeddedBroker
from pipeline.context import Context
from pipeline.index.home import Home
from tests.faults.people import People, Questioner, leftovers, whole
from tests.support import Folder, Programs, environment, published, wait_until

PROGRAMS = {
    "watch": ("watch",),
    "embedding": ("worker", "embedding", "--name", "embedding"),
    "indexing": ("worker", "indexing", "--name", "indexing"),
    "indexing-2": ("worker", "indexing", "--name", "indexing-2"),
    "maintenance": ("worker", "maintenance", "--name", "maintenance"),
    "beat": ("beat",),
}

REST_SECONDS = 120.0
"""A history that has not come to rest by then never will."""

LEASE_SECONDS = 11.0
"""A little longer than a builder's lease."""


class Stack:
    """A broker, a watcher, one or two workers of each kind, and Beat, below one folder. Also what histories share."""

    def __init__(self, number: int = 0) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"stack{number}-", dir="/tmp")).resolve()
        self.broker = EmbeddedBroker(self.root / "broker")
        chosen = environment(self.root, f"embedded:{self.root / 'broker'}", build_interval=0.05, keep_generations=3, merge_factor=4)
        chosen |= {
            "DROPDEX_SETTLE_AFTER": "0.1",
            "DROPDEX_ORPHAN_SECONDS": "60",
            "DROPDEX_LOG_LEVEL": "WARNING",
            "DROPDEX_MAX_ATTEMPTS": "1000",
        }
        self.settings = chosen
        self.folder = Folder(self.root / "inbox")
        self.running = Programs(self.root, {**chosen, "OMP_NUM_THREADS": "1"})
        self.processes: dict[str, Any] = {}
        self.people = People(self.folder, random.Random(0))
        self.embeddings, self._last_total, self.redone = 0, 0, 0
        self._watching = Event()
        self.generation_problems: list[str] = []
        self.generations = 0

    # Life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stack:
        self.broker.start()
        self.context = Context(load_from(self.settings))
        for name in PROGRAMS:
            self.start(name)
        self.questioner = Questioner(FolderStore(self.root / "index"), self.people, pause=0.02)
        self._observer = Thread(target=self._observe, daemon=True)
        self._observer.start()
        wait_until(lambda: len(self.alive()) >= 5, "the stack to come up", 120)
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.set()
        self._observer.join()
        self.questioner.close()
        self.context.redis.close()
        self.running.end()
        self.broker.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def stop(self) -> list[str]:
        """Ask every program to leave, the watcher first. Returns what is left behind."""
        for process in self.processes.values():
            process.terminate()
            with suppress(Exception):
                process.wait(30)
        left = self.cleanup()
        left += [f"left running: {' '.join(process.cmdline())[-60:]}" for process in self.running.alive()]
        FolderStore(self.root / "index").sweep(0)
        left += [f"left behind: {path.name}" for path in leftovers(self.root / "index" / ".tmp")]
        return left

    def start(self, name: str) -> None:
        self.processes[name] = self.running.start(*PROGRAMS[name], name=name)

    def alive(self) -> list[str]:
        with suppress(RedisError):
            return self.context.ledger.alive()
        return []

    def _observe(self) -> None:
        """Verify every generation that the pointer is seen at, and add up what was embedded."""
        seen = b""
        while not self._watching.wait(0.02):
            with suppress(DropdexError, OSError, RedisError):
                self.count()
                blob = FolderStore(self.root / "index").get("CURRENT")
                if blob and blob.data != seen:
                    seen = blob.data
                    self._verify()

    def _verify(self) -> None:
        self.generations += 1
        home = Home(FolderStore(self.root / "index"))
        before = home.pointer()
        problems = whole(home)
        if problems and home.pointer() == before:  # else a cleanup took what was superseded meanwhile
            self.generation_problems += [f"published: {problem}" for problem in problems]

    def count(self) -> None:
        """Totals live in Redis and may be lost with it."""
        total = int(self.context.ledger.totals().get("embeddings", 0))
        if total < self._last_total:
            self._last_total = 0
        self.embeddings += total - self._last_total
        self._last_total = total

    # Words of the faults --------------------------------------------------------------------------------------------

    def kill(self, name: str, *, child: bool = False) -> bool:
        """Kill a program with all that belongs to it, or one child of it. A supervisor starts it again."""
        process = self.processes[name]
        children = children_of(process.pid)
        self.redone += self.in_flight()
        if child:
            if not children:
                return False
            with suppress(psutil.NoSuchProcess):
                self.chance.choice(children).kill()
                return True
            return False
        process.kill()
        process.wait()
        wait_until(lambda: not any(alive(one) for one in children), f"the children of {name} to go", 10)
        self.start(name)
        return True

    def in_flight(self) -> int:
        with suppress(RedisError):
            counts = self.context.ledger.counts()
            return int(counts["noticed"] + counts["settled"]) + 3
        return len(self.people.here)

    def kill_broker(self, *, data: bool) -> bool:
        self.redone += self.in_flight() if data else len(self.people.here)
        process = self.broker._process
        assert process
        process.kill()
        process.wait()
        if not data:
            for path in (self.root / "broker").glob("appendonlydir/*"):
                path.unlink()
        self.broker.start()
        return True

    def queue(self) -> str:
        return f"{self.context.settings.namespace}:celery:embedding"

    # A history ----------------------------------------------------------------------------------------------------

    def run(self, seed: int, faults: Sequence[tuple[str, Callable[[Stack], bool]]], *, steps: int = 40) -> tuple[Counter[str], list[str]]:
        """Random operations, the faults among them, then rest. Returns hits and violations."""
        self.chance = self.people.chance = random.Random(seed)
        hits: Counter[str] = Counter()
        moments = sorted(self.chance.sample(range(3, steps), len(faults)))
        for number in range(steps):
            if number in moments:
                name, fault = faults[moments.index(number)]
                hits[name] += fault(self)
            else:
                self.people.step()
                self.supervise()
                time.sleep(self.chance.choice((0, 0, 0.02, 0.05)))
        violations = self.rest()
        return hits, violations

    def rest(self) -> list[str]:
        """List once more; then the index must come to say what the source says, and nothing may wait."""
        expected = self.people.expected()
        self.ask_for_listing()
        deadline, asked = time.monotonic() + REST_SECONDS, time.monotonic()
        while not self.at_rest(expected):
            self.supervise()
            if time.monotonic() > deadline:
                return [f"no rest after {REST_SECONDS:g} s: {self.difference(expected)}", *self.complaints()]
            if time.monotonic() - asked > 8:
                asked = time.monotonic()
                self.ask_for_listing()
            time.sleep(0.05)
        found = self.context.home.pointer()
        self.people.published(found[0].generation if found else 0)
        return self.complaints()

    def supervise(self) -> None:
        """Start what has ended by itself, as `dropdex up` does."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.start(name)

    def ask_for_listing(self) -> None:
        with suppress(RedisError):
            self.context.ledger.note("reconcile", "allow-removals")

    def at_rest(self, expected: dict[str, str]) -> bool:
        with suppress(RedisError, DropdexError):
            counts = self.context.ledger.counts()
            return not counts["noticed"] + counts["settled"] and not self.context.ledger.noted("reconcile") and self.same(expected)
        return False

    def same(self, expected: dict[str, str]) -> bool:
        return published(self.context) == expected

    def difference(self, expected: dict[str, str]) -> str:
        with suppress(RedisError, DropdexError):
            found = published(self.context)
            wrong = sorted(uri for uri in expected.keys() | found.keys() if expected.get(uri) != found.get(uri))
            return f"{len(wrong)} documents differ, such as {wrong[:2]}, {self.context.ledger.counts()}, alive: {self.alive()}"
        return "Redis or the index is away"

    def complaints(self) -> list[str]:
        """What went wrong since the last question."""
        self.questioner.reader.refresh()
        for text in list(self.people.here.values())[:10]:
            self.questioner.ask(text)
        failures, self.questioner.failures[:] = [f"a query failed: {one}" for one in self.questioner.failures], []
        problems, self.generation_problems[:] = list(self.generation_problems), []
        with suppress(RedisError):
            self.count()
        if self.embeddings > self.people.contents + self.redone:
            problems.append(f"{self.embeddings} embeddings of {self.people.contents} contents, {self.redone} excused")
        return [*failures, *problems]

    def cleanup(self) -> list[str]:
        """After a cleanup the index holds what the kept generations need. Returns what is there besides."""
        from pipeline.index import upkeep

        home = Home(FolderStore(self.root / "index"))
        upkeep.gc(home, 1, 0.0, time.time() + 1, in_use=self.context.ledger.shards_in_use())
        found = home.current()
        needed = {"CURRENT"} | ({found[0].name, *found[0].names} if found else set())
        there = {info.name for info in FolderStore(self.root / "index").list("")}
        return [f"left in the index: {name}" for name in sorted(there - needed)][:3]


def load_from(settings: dict[str, str]) -> Any:
    """The settings that the programs get, read as they read them."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DROPDEX_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(name, value)
        return load()


def children_of(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


# Faults ---------------------------------------------------------------------------------------------------------------


def busily(stack: Stack, operations: int = 6) -> None:
    """People do something, so that the fault strikes work."""
    for _ in range(operations):
        stack.people.step()


def kill(name: str, *, child: bool = False) -> Callable[[Stack], bool]:
    def strike(stack: Stack) -> bool:
        busily(stack)
        time.sleep(stack.chance.random() * 0.15)
        return stack.kill(name, child=child)

    return strike


def restart_broker(*, data: bool) -> Callable[[Stack], bool]:
    def strike(stack: Stack) -> bool:
        busily(stack)
        time.sleep(stack.chance.random() * 0.15)
        return stack.kill_broker(data=data)

    return strike


def flush(stack: Stack) -> bool:
    busily(stack)
    time.sleep(stack.chance.random() * 0.15)
    stack.redone += len(stack.people.here)
    with suppress(RedisError):
        stack.context.redis.flushall()
        return True
    return False


def freeze(stack: Stack) -> bool:
    """Whoever holds the lease of building is stopped until it is over; meanwhile the other indexing worker builds."""
    key = f"{stack.context.ledger.namespace}:build"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        stack.people.put()
        for _ in range(300):
            with suppress(RedisError):
                token = str(stack.context.redis.get(key) or "")
                if token and stopped(stack, key, token):
                    pid = int(token.partition("-")[0])
                    try:
                        busily(stack)
                        time.sleep(LEASE_SECONDS)
                        busily(stack)
                        time.sleep(1)
                    finally:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)
                    return True
    return False


def stopped(stack: Stack, key: str, token: str) -> bool:
    """Stop the holder; whether it still holds the lease then."""
    pid = int(token.partition("-")[0])
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        if not alive(psutil.Process(pid)):
            return False
        os.kill(pid, signal.SIGSTOP)
        if stack.context.redis.get(key) == token:
            return True
        os.kill(pid, signal.SIGCONT)
    return False


def meddle(change: Callable[[Stack, list[str]], list[str]]) -> Callable[[Stack], bool]:
    """The embedding worker holds still for a moment, and what waits for it in Redis is changed."""

    def strike(stack: Stack) -> bool:
        worker = stack.processes["embedding"].pid
        os.kill(worker, signal.SIGSTOP)
        try:
            with suppress(RedisError, AssertionError):
                waiting: list[str] = []
                deadline = time.monotonic() + 3
                while not waiting and time.monotonic() < deadline:
                    busily(stack, 2)
                    time.sleep(0.05)
                    waiting = stack.context.redis.lrange(stack.queue(), 0, -1)
                stack.redone += stack.in_flight()
                pipe = stack.context.redis.pipeline()
                pipe.delete(stack.queue())
                for message in change(stack, waiting):
                    pipe.rpush(stack.queue(), message)
                pipe.execute()
                return bool(waiting)
        finally:
            os.kill(worker, signal.SIGCONT)
        return False

    return strike


def shuffled(stack: Stack, messages: list[str]) -> list[str]:
    return stack.chance.sample(messages, len(messages))


STACK_FAULTS: dict[str, Callable[[Stack], bool]] = {
    "SIGKILL watcher": kill("watch"),
    "SIGKILL embedding worker": kill("embedding"),
    "SIGKILL indexing worker": kill("indexing"),
    "SIGKILL indexing worker's child": kill("indexing", child=True),
    "SIGKILL Beat": kill("beat"),
    "SIGKILL Valkey, data kept": restart_broker(data=True),
    "SIGKILL Valkey, data lost": restart_broker(data=False),
    "FLUSHALL under load": flush,
    "builder frozen past its lease": freeze,
    "waiting messages lost": meddle(lambda _, messages: []),
    "waiting messages doubled and reordered": meddle(lambda stack, messages: shuffled(stack, messages + messages)),
}
