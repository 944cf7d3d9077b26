"""A pipeline below one folder, for tests: its settings, its tasks called in this process, and its programs as processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import psutil
import pytest

from pipeline.base.model import DocumentEvent, Origin
from pipeline.base.settings import PREFIX
from pipeline.context import Context, current
from pipeline.index.home import Home
from pipeline.index.manifest import Manifest
from pipeline.index.snapshot import Snapshot
from pipeline.observe.status import ledger_figures
from pipeline.relay.backfill import differences
from pipeline.tasks import flow
from pipeline.tasks.build import build
from pipeline.tasks.embed import embed

T = TypeVar("T")

MARK = "TEST_PIPELINE"
"""Names the pipeline in the environment of every process that belongs to it."""

PATIENCE = 60.0
"""Seconds after which what should have happened has not. Generous: the machine may be busy."""


def wait_until(condition: Callable[[], T], what: str | Callable[[], str], seconds: float = PATIENCE) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what() if callable(what) else what}")
        time.sleep(0.05)


def broker_of(valkey: str) -> str:
    """The broker setting that reaches the server of the fixture `valkey`."""
    return f"embedded:{Path(valkey.removeprefix('unix://')).parent}"


def environment(root: Path, broker: str, **settings: object) -> dict[str, str]:
    """The settings of a pipeline that keeps everything below `root`, with the hash embedder."""
    chosen = {
        "sources": f"file:{root / 'inbox'}",
        "index": f"file:{root / 'index'}",
        "state": root / "state",
        "broker": broker,
        "model": "hash:64",
        "build_interval": 0,
        "flower_port": 0,
        **settings,
    }
    return {f"DROPDEX_{name.upper()}": str(value) for name, value in chosen.items()}


class Folder:
    """The documents that people drop, and what an index of them has to say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def root(self) -> str:
        return f"file://{self.path.resolve()}/"

    def uri(self, name: str) -> str:
        return self.root + name

    def put(self, name: str, content: str | bytes) -> str:
        """Write a document as careful programs do, beside it and then renamed. Returns its uri."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.rename(path)
        return self.uri(name)

    def remove(self, name: str) -> str:
        (self.path / name).unlink()
        return self.uri(name)

    def rename(self, old: str, new: str) -> tuple[str, str]:
        (self.path / new).parent.mkdir(parents=True, exist_ok=True)
        (self.path / old).rename(self.path / new)
        return self.uri(old), self.uri(new)

    def contents(self) -> dict[str, str]:
        """Uri → content hash of everything that is there."""
        files = (path for path in self.path.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {self.uri(str(path.relative_to(self.path))): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def published(context: Context) -> dict[str, str]:
    """Uri → content hash of the served generation, read afresh."""
    home = Home(context.blobs)
    found = home.current()
    return {d.uri: d.content_hash for d in Snapshot.open(home, found[0]).documents()} if found else {}


class Pipeline:
    """One pipeline whose tasks are called in this process. What they would send is written down instead."""

    def __init__(self, root: Path, broker: str, **settings: object) -> None:
        self.root = root
        self.environment = environment(root, broker, **settings)
        self.folder = Folder(root / "inbox")
        self.handed_over: list[list[str]] = []
        self.sent: list[tuple[str, tuple[Any, ...]]] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        from pipeline.tasks.app import app

        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            self._patch.delenv(name)
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        current.cache_clear()
        self._patch.setattr(flow, "hand_over", self._hand_over)
        self._patch.setattr(flow, "request_build", lambda: self.sent.append(("dropdex.build", ())))
        self._patch.setattr(app, "send_task", lambda name, args=(), **_: self.sent.append((name, tuple(args))))
        self.context = current()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if "extractor" in vars(self.context):
            self.context.extractor.close()
        self.context.redis.close()
        self._patch.undo()
        current.cache_clear()

    def _hand_over(self, batches: Iterable[Sequence[str]], origin: Origin, *, countdown: float = 0) -> None:
        self.handed_over += [list(batch) for batch in batches]

    def notice(self, *uris: str) -> None:
        """The events, as the relay writes them down before it hands them over."""
        assert self.context.ledger.notice(self.context.seed(), uris) is not None

    def look(self, *uris: str, origin: str = "live") -> None:
        """Events at these documents, and the task that looks."""
        self.notice(*uris)
        embed(list(uris), origin)

    def build(self) -> str:
        return build()

    def index(self, *uris: str) -> None:
        """Events, look and publication."""
        self.look(*uris)
        self.build()

    def differences(self, *, allow_removals: bool = True) -> list[DocumentEvent]:
        self.context.seed()
        (source,) = self.context.sources
        return list(differences(source, self.context.ledger, self.context.settings.removal_guard, allow_removals=allow_removals))

    def reconcile(self) -> list[str]:
        """List, look at what differs, publish. Returns what differed."""
        uris = [event.uri for event in self.differences()]
        if uris:
            self.look(*uris, origin="backfill")
        self.build()
        return uris

    def published(self) -> dict[str, str]:
        return published(self.context)

    def manifest(self) -> Manifest:
        found = Home(self.context.blobs).current()
        assert found
        return found[0]

    def found(self, query: str, k: int = 3) -> list[str]:
        """Uris of the documents that answer best."""
        found = Home(self.context.blobs).current()
        assert found
        hits = Snapshot.open(Home(self.context.blobs), found[0]).search(self.context.embedder.embed([query]), k)[0]
        return [hit.uri for hit in hits]

    @property
    def embedded(self) -> int:
        """Passages embedded so far."""
        return int(ledger_figures(self.context)["embedded_total"])


# Programs -----------------------------------------------------------------------------------------------------------


class Programs:
    """Real processes of one pipeline. None of them survives the test, however it ends."""

    def __init__(self, root: Path, settings: dict[str, str]) -> None:
        self.root = root
        self.environment = {**os.environ, **settings, MARK: str(root)}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, name: str = "") -> subprocess.Popen[bytes]:
        """`dropdex` with these arguments; what it says goes to a file of its own."""
        with self.log(name or arguments[0]).open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *arguments],
                env=self.environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> Path:
        return self.root / f"{name}.out"

    def said(self, name: str) -> str:
        path = self.log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def alive(self) -> list[psutil.Process]:
        """Every living process of this pipeline, whoever started it."""
        return [process for process in psutil.process_iter() if _marked(process) == str(self.root)]

    def end(self) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for left in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self._started:
            process.wait(PATIENCE)


def _marked(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return ""


@contextlib.contextmanager
def programs(root: Path, settings: dict[str, str]) -> Iterator[Programs]:
    running = Programs(root, settings)
    try:
        yield running
    finally:
        running.end()
