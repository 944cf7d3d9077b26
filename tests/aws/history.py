"""A bucket under fire: random changes while events are lost and doubled and every kind of process is killed.

Run as a program it takes 2,000 operations: `python tests/aws/history.py [SEED [OPERATIONS]]`. The same seed makes the same
operations; what is killed in the middle of what is up to the machine.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a program; pytest has put it there already

from emulated import Bucket, server
from support import Programs, programs, wait_until

from pipeline.base.settings import load
from pipeline.broker.valkey import EmbeddedBroker
from pipeline.context import Context
from pipeline.index.home import Home
from pipeline.index.snapshot import Snapshot
from pipeline.observe.verify import problems
from pipeline.sources.s3.provision import MAX_RECEIVES

WATCHERS, EMBEDDERS = 2, 3
KEYS = 150
"""Few, so that most operations overwrite, copy or delete."""

VISIBILITY = 10
"""Seconds until the message of a killed watcher comes back."""


@dataclass
class History:
    """Random operations on a bucket, and what must be in it after them."""

    bucket: Bucket
    chance: random.Random
    content: dict[str, bytes] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    """Digests of everything that ever was an object's content."""

    def step(self, number: int) -> None:
        key = f"folder {self.chance.randrange(5)}/näme+{self.chance.randrange(KEYS)}.txt"
        choice = self.chance.random()
        if choice < 0.2 and self.content:
            key = self.chance.choice(sorted(self.content))
            self.bucket.delete(key)
            del self.content[key]
        elif choice < 0.35 and (others := sorted(self.content.keys() - {key})):  # S3 refuses to copy an object onto itself
            origin = self.chance.choice(others)
            self.bucket.s3.copy_object(Bucket=self.bucket.name, Key=key, CopySource={"Bucket": self.bucket.name, "Key": origin})
            self.content[key] = self.content[origin]
        else:
            body = f"operation {number} says {self.chance.getrandbits(64):x} about {key}".encode()
            (self._multipart if choice < 0.45 else self.bucket.put)(key, body)
            self.content[key] = body
            self.written.add(hashlib.sha256(body).hexdigest())

    def _multipart(self, key: str, body: bytes) -> None:
        where = {"Bucket": self.bucket.name, "Key": key}
        upload = {**where, "UploadId": self.bucket.s3.create_multipart_upload(**where)["UploadId"]}
        part = self.bucket.s3.upload_part(**upload, PartNumber=1, Body=body)
        self.bucket.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})

    def expected(self) -> dict[str, str]:
        """Uri → content hash of what is in the bucket."""
        return {self.bucket.uri(key): hashlib.sha256(body).hexdigest() for key, body in self.content.items()}


class Thief:
    """Takes messages before the watchers do: loses some for good, sends the others twice."""

    def __init__(self, bucket: Bucket, chance: random.Random) -> None:
        self._bucket, self._chance = bucket, chance
        self.lost = self.doubled = 0
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Thief:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        queue: Any = {"QueueUrl": self._bucket.queue_url}
        while not self._stop.is_set():
            for message in self._bucket.sqs.receive_message(**queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", []):
                if self._chance.random() < 0.5:
                    self.lost += 1
                else:
                    self.doubled += 1
                    self._bucket.send(message["Body"], message["Body"])
                self._bucket.sqs.delete_message(**queue, ReceiptHandle=message["ReceiptHandle"])


class Cluster:
    """Two watchers, three embedding workers, one indexing and one maintenance worker, and somebody who kills them."""

    def __init__(self, running: Programs) -> None:
        self._running = running
        self._lives = itertools.count()
        self._called: dict[str, str] = {}
        names = [f"watch-{n}" for n in range(WATCHERS)] + [f"embedding-{n}" for n in range(EMBEDDERS)] + ["indexing", "maintenance"]
        self.processes = {name: self._start(name) for name in names}
        self.killed: set[str] = set()
        """What the killed processes called themselves to AWS; no two had the same name."""

    def _start(self, name: str) -> Any:
        kind = name.partition("-")[0]
        self._called[name] = self._running.environment["AWS_SDK_UA_APP_ID"] = f"{name}.{next(self._lives)}"
        return self._running.start(*(["watch"] if kind == "watch" else ["worker", kind, "--name", name]), name=name)

    def kill(self, name: str) -> None:
        """Kill a process with its children, and start it again as a supervisor would."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()
        self.killed.add(self._called[name])
        self.processes[name] = self._start(name)

    def stop(self) -> None:
        """Ask all of them to leave, the watchers first."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait(60)


@contextmanager
def cluster(endpoint: str, bucket: Bucket, folder: Path, visibility: int = VISIBILITY) -> Iterator[tuple[Cluster, Context]]:
    """A running cluster on an S3 home, and a context that asks about it."""
    bucket.s3.create_bucket(Bucket=f"{bucket.name}-index")
    chosen = {
        "sources": f"s3://{bucket.name}/?queue={bucket.queue}&visibility={visibility}",
        "index": f"s3://{bucket.name}-index/home",
        "broker": f"embedded:{folder / 'broker'}",
        "state": str(folder / "state"),
        "model": "hash:64",
        "workers": EMBEDDERS,
        "retry_backoff": 1,  # what is tested is that nothing is lost, not how patiently
    }
    settings = {f"DROPDEX_{name.upper()}": str(value) for name, value in chosen.items()} | {"AWS_ENDPOINT_URL": endpoint}
    with EmbeddedBroker(folder / "broker"), programs(folder, settings) as running:
        made = Cluster(running)
        context = Context(load(**{**chosen, "sources": (chosen["sources"],)}))
        wait_until(lambda: len(context.ledger.alive()) >= len(made.processes) - 1, "the cluster to come up", 120)
        yield made, context
        made.stop()
        context.redis.close()


def index_of(context: Context) -> dict[str, str]:
    home = Home(context.blobs)
    found = home.current()
    return {d.uri: d.content_hash for d in Snapshot.open(home, found[0]).documents()} if found else {}


def take(history: History, made: Cluster, operations: int, kills: int) -> Thief:
    """All operations, with `kills` kills spread over them, and the thief at work."""
    killing = set(history.chance.sample(range(operations), kills))
    with Thief(history.bucket, random.Random(history.chance.getrandbits(32))) as thief:
        for number in range(operations):
            history.step(number)
            if number in killing:
                made.kill(history.chance.choice(sorted(made.processes)))
    return thief


def reconcile(history: History, context: Context) -> None:
    """One reconcile; then the index must come to equal the bucket, and nothing may be left in the queue."""
    context.ledger.note("reconcile", "allow-removals")
    expected = history.expected()

    def difference() -> str:
        found = index_of(context)
        return str({uri for uri, _ in found.items() ^ expected.items()})[:1000]

    wait_until(lambda: index_of(context) == expected, lambda: f"the index to equal the bucket, but for {difference()}", 180)
    wait_until(lambda: history.bucket.waiting() == 0, "the queue to be empty", 60 + VISIBILITY)


def dead_letters(history: History, receipts: Path) -> dict[str, list[str]]:
    """Message in the dead-letter queue → who received it before it went there."""
    receivers: dict[str, list[str]] = defaultdict(list)
    for line in receipts.read_text().splitlines():
        message, _, receiver = line.partition(" ")
        receivers[message].append(receiver)
    queue: Any = {"QueueUrl": history.bucket.dead_url, "MaxNumberOfMessages": 10}
    found: dict[str, list[str]] = {}
    while messages := history.bucket.sqs.receive_message(**queue).get("Messages"):
        found.update({message["MessageId"]: receivers[message["MessageId"]] for message in messages})
    return found


def unexplained(dead: dict[str, list[str]], killed: set[str]) -> dict[str, list[str]]:
    """Pure: messages that should not be dead letters. One may, after as many receivers as are allowed were all killed with it in hand."""
    return {
        message: by for message, by in dead.items() if len(by) != MAX_RECEIVES or len(set(by)) != MAX_RECEIVES or not killed.issuperset(by)
    }


def main(seed: int, operations: int) -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory(prefix="dropdex-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        receipts = folder / "receipts"
        hook = {"START_HOOKS": str(Path(__file__).with_name("receipts.py")), "RECEIPTS": str(receipts)}
        os.environ["AWS_ENDPOINT_URL"] = endpoint = stack.enter_context(server("localstack", folder, **hook))
        history = History(Bucket(endpoint, "localstack"), random.Random(seed))
        made, context = stack.enter_context(cluster(endpoint, history.bucket, folder))
        begin = time.monotonic()
        thief = take(history, made, operations, kills=operations // 60)
        reconcile(history, context)
        embedded = int(context.ledger.totals().get("embeddings", 0))
        print(f"seed {seed}: {operations} operations, {len(made.killed)} kills, {thief.lost} events lost, {thief.doubled} doubled")
        print(f"{len(history.content)} objects, index equal after {time.monotonic() - begin:.0f} s")
        print(f"{embedded} embeddings of {len(history.written)} contents")
        dead = dead_letters(history, receipts)
        print(f"dead-letter queue: {len(dead)} messages, each received {MAX_RECEIVES} times by a watcher that was killed with it")
        assert not unexplained(dead, made.killed), unexplained(dead, made.killed)
        made.stop()
        assert list(problems(context)) == []
        planted = history.bucket.put("planted.txt")
        assert list(problems(context)) == [f"{planted} is in the source, but not in the index"]
        print("verify: no problem, and the difference that was planted then is found")


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["1", "2000"][len(sys.argv) - 1 :])))
