"""Real workers in processes of their own: chords run, doubled messages change nothing, and no kill -9 loses a document."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from tests.support import Pipeline, Programs, broker_of, programs, wait_until

NAMESPACE = "workers"
QUEUE = f"{NAMESPACE}:celery:embedding"


class Stand:
    """A pipeline, the workers of which are processes; the test is its relay, unless it starts a real one."""

    def __init__(self, pipeline: Pipeline, running: Programs, redis: Redis) -> None:
        self.pipeline, self.running, self.redis = pipeline, running, redis
        self.folder, self.ledger = pipeline.folder, pipeline.context.ledger

    def work(self) -> dict[str, psutil.Process]:
        """Start a worker of each kind, and return them."""
        return {
            name: psutil.Process(self.running.start("worker", name, "--name", name, name=name).pid) for name in ("embedding", "indexing")
        }

    def drop(self, *batches: list[str]) -> None:
        """Batches of documents, handed over as one chord."""
        self.pipeline.notice(*(uri for batch in batches for uri in batch))
        self.submit(f"flow.hand_over({batches!r}, Origin.LIVE)")

    def submit(self, call: str) -> None:
        """Let a process of its own publish, as Celery's client leaves connections open behind it."""
        lines = ("from pipeline.base.model import Origin", "from pipeline.tasks import flow", call)
        subprocess.run([sys.executable, "-c", "\n".join(lines)], env=self.running.environment, check=True)

    def put(self, *names: str) -> list[str]:
        return [self.folder.put(f"{name}.txt", f"the document {name}") for name in names]

    def follows(self, seconds: float = 60.0) -> None:
        def difference() -> str:
            there, here = self.folder.contents(), self.pipeline.published()
            wrong = sorted(uri for uri in there.keys() | here.keys() if there.get(uri) != here.get(uri))
            logs = {name: self.running.said(name)[-800:] for name in ("embedding", "indexing", "watch")}
            return f"{len(wrong)} documents to be right, such as {wrong[:3]}; {self.ledger.counts()}; {logs}"

        wait_until(lambda: self.pipeline.published() == self.folder.contents(), difference, seconds)

    def done(self) -> None:
        """Wait until no task waits or runs."""
        wait_until(lambda: not (self.redis.llen(QUEUE) or self.redis.hlen(f"{NAMESPACE}:celery:unacked")), "the queue to be empty")


@pytest.fixture
def stand(valkey: str, redis_client: Redis) -> Iterator[Stand]:
    with tempfile.TemporaryDirectory(prefix="workers-", dir="/tmp") as folder:
        root = Path(folder).resolve()
        with (
            Pipeline(root, broker_of(valkey), namespace=NAMESPACE, settle_after=0.1) as pipeline,
            programs(root, pipeline.environment) as running,
        ):
            yield Stand(pipeline, running, redis_client)


def test_messages_run_end_to_end_however_often_they_come(stand: Stand) -> None:
    # Given a chord of two batches that waits in the queue, three times over
    stand.drop(stand.put("a", "b"), stand.put("c"))
    raw = stand.redis.lrange(QUEUE, 0, -1)
    assert len(raw) == 2
    stand.redis.rpush(QUEUE, *raw, *raw)
    # When the workers start
    stand.work()
    stand.follows()
    stand.done()
    # Then the documents are published, each embedded once
    wait_until(lambda: stand.pipeline.embedded == 3, lambda: f"3 embedded passages, not {stand.pipeline.embedded}")
    # And the messages once more change nothing
    generation = stand.pipeline.manifest().generation
    stand.redis.rpush(QUEUE, *raw)
    stand.done()
    stand.drop(stand.put("d"))
    stand.follows()
    assert stand.pipeline.embedded == 4
    assert stand.pipeline.manifest().generation == generation + 1
    # And one that would run code is refused, and holds nobody up
    trap = stand.pipeline.root / "trap"
    stand.redis.lpush(QUEUE, pickled(raw[0], trap))
    stand.drop(stand.put("e"))
    stand.follows()
    stand.done()
    assert not trap.exists()
    assert "ContentDisallowed" in stand.running.said("embedding") or "disallowed" in stand.running.said("embedding").lower()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def pickled(raw: str, trap: Path) -> str:
    """The same message with a pickle for its body."""
    message = json.loads(raw)
    message["body"] = base64.b64encode(pickle.dumps(Trap(trap))).decode()
    message["content-type"] = "application/x-python-serialize"
    return json.dumps(message)


def test_a_build_without_a_chord(stand: Stand) -> None:
    stand.pipeline.look(*stand.put("a"))
    stand.work()
    stand.submit("flow.request_build()")
    stand.follows()


def test_no_kill_loses_a_document(stand: Stand) -> None:
    """Both kinds of worker are killed in the middle of their work, and started again."""
    workers = stand.work()
    stand.running.start("watch")
    stand.put("first")
    stand.follows()
    # When the indexing worker is killed while it builds
    child = wait_until(workers["indexing"].children, "its child")
    lease = f"{stand.ledger.namespace}:build"

    def building() -> bool:
        number = len(stand.folder.contents())
        stand.put(f"more{number}")
        return any(stand.redis.exists(lease) for _ in range(200))

    wait_until(building, "a build to be under way")
    workers["indexing"].send_signal(signal.SIGKILL)
    # Then it leaves no child behind
    wait_until(lambda: not any(process.is_running() for process in child), "its child to go")
    # When the embedding worker is killed over documents that take it seconds
    big = [stand.folder.put(f"big{number}.txt", words(number)) for number in range(4)]
    wait_until(lambda: any(claim != "none" for claim in stand.ledger.claims(big)), "a look at them")
    workers["embedding"].send_signal(signal.SIGKILL)
    assert not set(big) & set(stand.pipeline.published())
    # When both come back
    stand.work()
    # Then everything is published, and nobody was blamed for the crash; a message that was lost comes again after a minute
    stand.follows(120)
    assert list(stand.ledger.dead_letters()) == []
    wait_until(lambda: not stand.ledger.counts()["settled"] + stand.ledger.counts()["noticed"], "nothing to be left")


def words(seed: int) -> str:
    chance = random.Random(seed)
    return " ".join(f"w{chance.randrange(10**6)}" for _ in range(150_000))
