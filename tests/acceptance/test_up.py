"""`dropdex up` as a person runs it: one process, a folder, and a reader that follows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from pipeline import Reader
from pipeline.base.settings import PREFIX
from pipeline.broker.valkey import broker_url
from tests.support import Folder, Programs, environment, programs, wait_until

LISTENERS = ("beat", "maintenance", "indexing", "embedding-1", "watch")
"""The programs that `up` starts, by the names of their logs."""

LOST_AND_FOUND = 90
"""Seconds: a message that a kill lost is handed over again after sixty."""


class Up:
    """One `dropdex up` below a folder of its own."""

    def __init__(self, root: Path, running: Programs) -> None:
        self.root, self.running = root, running
        self.folder = Folder(root / "inbox")
        self.broker = f"embedded:{root / 'broker'}"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.starts += 1
        self.process = self.running.start("up", name=self.said_in)
        wait_until(self.is_ready, lambda: f"ready; it said: {self.said()[-2000:]}", LOST_AND_FOUND)

    @property
    def said_in(self) -> str:
        return f"up-{self.starts}"

    def said(self) -> str:
        return self.running.said(self.said_in)

    def is_ready(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.said()
        return "ready after" in self.said()

    def interrupt(self) -> int:
        """Ctrl-C. Returns the exit code."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)

    def redis(self) -> Redis:
        return Redis.from_url(broker_url(self.broker).redis, decode_responses=True)

    def indexed(self) -> dict[str, str]:
        """Uri → content hash of what a reader that opens the index now would search."""
        with Reader.open(f"file:{self.root / 'index'}", refresh_every=0) as reader:
            return {d.uri: d.content_hash for d in reader.snapshot.documents()} if reader.snapshot else {}

    def follows(self, seconds: float = LOST_AND_FOUND) -> None:
        """Wait until the index says what the folder says."""

        def difference() -> str:
            there, here = self.folder.contents(), self.indexed()
            wrong = sorted(uri for uri in there.keys() | here.keys() if there.get(uri) != here.get(uri))
            return f"{len(wrong)} documents to be right, such as {wrong[:3]}; it said {self.said()[-300:]}"

        wait_until(lambda: self.indexed() == self.folder.contents(), difference, seconds)

    def programs(self) -> dict[str, psutil.Process]:
        """The processes that `up` started, by the words of their command."""
        assert self.process
        found = {}
        for process in self.running.alive():
            with contextlib.suppress(psutil.Error):  # it may end while we ask
                words = process.cmdline()
                if "--with-parent" in words and process.ppid() == self.process.pid:
                    found[" ".join(words[words.index("--with-parent") + 2 :])] = process
        return found


@pytest.fixture
def up() -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as folder:
        root = Path(folder).resolve()
        chosen = environment(root, f"embedded:{root / 'broker'}", build_interval=0.1, flower_port=0)
        with programs(root, chosen) as running:
            yield Up(root, running)


def fill(folder: Folder, count: int, prefix: str = "many") -> None:
    for number in range(count):
        folder.put(f"{prefix}/{number:04}.txt", f"document {number} of {prefix} says {hashlib.sha256(str(number).encode()).hexdigest()}")


def test_a_day_with_dropdex_up(up: Up) -> None:
    """Drop, change, rename, delete, poison, restart: one test, as most of its time is the start."""
    # Given documents that were there before, and a reader
    up.folder.put("before.txt", "an elephant was here before")
    up.start()
    with Reader.open(f"file:{up.root / 'index'}") as reader:

        def answer(query: str) -> str:
            hits = reader.search(query, k=1)
            return hits[0].uri if hits else ""

        def follows(query: str, uri: str) -> None:
            wait_until(lambda: answer(query) == uri, lambda: f"{query} to be found in {uri}, not {answer(query)}")

        follows("elephant", up.folder.uri("before.txt"))
        # When one is dropped, changed, renamed and deleted, the reader follows
        whale = up.folder.put("whale.txt", "a white whale")
        follows("whale", whale)
        up.folder.put("whale.txt", "a grey mouse")
        follows("mouse", whale)
        follows("mouse", up.folder.rename("whale.txt", "mouse.txt")[1])
        up.folder.remove("mouse.txt")
        up.follows()
        # When a folder with many documents appears and is renamed, nothing is embedded twice
        fill(up.folder, 40)
        up.follows()
        with up.redis() as redis:
            embedded = figure(up, "embedded_total")
            (up.folder.path / "many").rename(up.folder.path / "renamed")
            up.follows()
            assert figure(up, "embedded_total") == embedded
            # When a bad document is dropped beside a good one, only the good one appears
            up.folder.put("bad.txt", "")
            good = up.folder.put("good.txt", "a good zebra")
            follows("zebra", good)
            wait_until(lambda: figure(up, "dead") == 1, "the dead letter")
            up.folder.put("bad.txt", "a cured giraffe")
            follows("giraffe", up.folder.uri("bad.txt"))
            assert redis.ping()
    # When it is interrupted, nothing is left
    assert up.interrupt() == 0
    assert up.running.alive() == []
    assert "Traceback" not in up.said()
    # And every line of every program tells that it was of the same run, and those of a task tell the task
    assert len({run for name in LISTENERS for run in re.findall(r" run=(\w+)", log_of(up, name))}) == 1
    assert all(re.search(r" run=\w+", log_of(up, name)) for name in LISTENERS)
    assert re.search(r"action=published generation=\d+ .*run=\w+ task=[\w-]+", log_of(up, "indexing"))
    # When it is started again after changes that nobody saw, they are found, and nothing else is embedded
    up.folder.put("meanwhile.txt", "a lion came meanwhile")
    up.folder.remove("good.txt")
    up.start()
    up.follows()
    assert figure(up, "embedded_total") == embedded + 3  # zebra, giraffe, lion
    assert up.interrupt() == 0
    assert up.running.alive() == []


def log_of(up: Up, name: str) -> str:
    return (up.root / "state" / "logs" / f"{name}.log").read_text()


def figure(up: Up, name: str) -> int:
    """One figure of `dropdex status --json`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--json"],
        env=up.running.environment,
        cwd=up.root,
        capture_output=True,
        check=True,
    )
    return int(json.loads(done.stdout)[name])


def test_whatever_is_killed_during_an_ingest_the_index_follows(up: Up) -> None:
    up.start()
    wait_until(lambda: len(up.programs()) == len(LISTENERS), lambda: f"all programs; there are {sorted(up.programs())}")
    names = sorted(up.programs())
    for number, name in enumerate(names):
        kill_during_an_ingest(up, name, f"batch{number}")
    up.follows()
    # And when Redis forgets everything in the middle of another one, the index follows all the same
    fill(up.folder, 60, "forgotten")
    with up.redis() as redis:
        redis.flushall()
    fill(up.folder, 5, "after")
    up.follows()
    assert "Traceback" not in up.said()
    # When `up` itself is killed, nothing is left running
    fill(up.folder, 60, "last")
    assert up.process
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not up.running.alive(), lambda: f"everything to end: {[p.cmdline() for p in up.running.alive()]}")
    # And the next start makes up for it
    up.start()
    up.follows()
    assert up.interrupt() == 0
    assert up.running.alive() == []


def kill_during_an_ingest(up: Up, name: str, folder: str) -> None:
    before = len(up.folder.contents())
    fill(up.folder, 60, folder)
    wait_until(lambda: len(up.indexed()) > before, "the ingest to begin")
    victim = up.programs()[name]
    victim.kill()
    wait_until(lambda: up.programs().get(name, victim).pid != victim.pid, f"{name} to come back")


@pytest.mark.parametrize(
    ("arguments", "chosen", "code", "sentence"),
    [
        (["up", "nowhere"], {}, 2, "does not exist"),
        (["up"], {"MODEL": "hash:many"}, 2, "hash"),
        (["up"], {"BROKER": "amqp://localhost"}, 2, "broker"),
        (["up"], {"WINDOW": "0"}, 2, "DROPDEX_WINDOW"),
        (["up"], {"WINDOWS": "1"}, 2, "did you mean DROPDEX_WINDOW?"),
    ],
)
def test_what_cannot_work_ends_with_a_sentence(up: Up, arguments: list[str], chosen: dict[str, str], code: int, sentence: str) -> None:
    up.running.environment |= {PREFIX + name: value for name, value in chosen.items()}
    process = up.running.start(*arguments, name="refused")
    assert process.wait(60) == code
    said = up.running.said("refused")
    assert sentence in said
    assert "Traceback" not in said
    assert up.running.alive() == []


def test_a_damaged_index_ends_with_a_sentence(up: Up) -> None:
    (up.root / "index").mkdir()
    (up.root / "index" / "CURRENT").write_text("garbage")
    process = up.running.start("up", name="refused")
    assert process.wait(60) == 1
    assert "CURRENT" in up.running.said("refused")
    assert (up.root / "index" / "CURRENT").read_text() == "garbage"


def test_a_second_one_is_refused(up: Up) -> None:
    up.start()
    second = up.running.start("up", name="second")
    assert second.wait(60) == 2
    assert "already running" in up.running.said("second")
    up.folder.put("a.txt", "the first one goes on")
    up.follows()
