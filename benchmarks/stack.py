"""A real `dropdex up` in a folder of its own, its memory watched, and a reader on its index."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from pipeline import Reader

STEP = 0.002
"""Seconds between two looks for a change: far below what is measured."""


class Stack:
    """`dropdex up` over `folder / "inbox"`, and a reader that looks for new generations every `refresh_every` seconds."""

    def __init__(
        self, folder: Path, *, source: str = "", watch_memory: bool = False, refresh_every: float = 0.01, **settings: object
    ) -> None:
        self.folder, self.inbox = folder, folder / "inbox"
        self.inbox.mkdir(exist_ok=True)
        self._environment = {**os.environ, "DROPDEX_FLOWER_PORT": "0", **{f"DROPDEX_{k.upper()}": str(v) for k, v in settings.items()}}
        self._refresh_every = refresh_every
        self.peak_mb = 0.0
        self._stop = Event()
        self.started = time.perf_counter()
        with (folder / "up.log").open("w") as out:
            command = [sys.executable, "-m", "pipeline", "up", *([source] if source else [])]
            self._process = subprocess.Popen(command, cwd=folder, env=self._environment, stdout=out, stderr=out, start_new_session=True)
        if watch_memory:  # which costs time itself
            Thread(target=self._watch_memory, daemon=True).start()
        self._index = str(settings.get("index", f"file:{folder / 'index'}"))

    @cached_property
    def reader(self) -> Reader:
        """Opened when it is first asked for: opening a large index beside a start would slow the start down."""
        every = self._refresh_every if self._index.startswith("file:") else 0.1  # a look costs an emulator a request
        return Reader.open(self._index, refresh_every=every, cache_dir=self.folder / "reader-cache")

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def _watch_memory(self) -> None:
        """Proportional set size of all processes together: shared pages count once."""
        while not self._stop.wait(0.5):
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(self._process.pid)
                total = 0
                for process in [parent, *parent.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        total += process.memory_full_info().pss
                self.peak_mb = max(self.peak_mb, total / 1e6)

    def until(self, condition: Callable[[], object], seconds: float = 600.0, what: str = "the condition", *, step: float = STEP) -> float:
        """Seconds until `condition` holds, looked at every `step` seconds. Raises TimeoutError."""
        begin = time.perf_counter()
        while not condition():
            if time.perf_counter() - begin > seconds or self._process.poll() is not None:
                raise TimeoutError(f"{what} did not come about: {self.log()[-500:]}")
            time.sleep(step)
        return time.perf_counter() - begin

    def until_ready(self) -> float:
        """Seconds from the start until it says so."""
        self.until(lambda: "ready after" in self.log(), what="ready")
        return time.perf_counter() - self.started

    def until_complete(self) -> None:
        """Wait for what starts after that, too: it would take its part of the processor from what is measured."""
        self.until_ready()
        self.until(lambda: "maintenance" in str(self.status()["alive"]), what="the maintenance worker", step=0.2)

    def documents(self) -> int:
        snapshot = self.reader.snapshot
        return snapshot.manifest.live_documents if snapshot else 0

    def content_of(self, path: Path) -> str:
        """The content hash that the reader's generation has of a file; empty where it has none."""
        return self.content_of_uri(f"file://{path.resolve()}")

    def content_of_uri(self, uri: str) -> str:
        snapshot = self.reader.snapshot
        document = snapshot.document(uri) if snapshot else None
        return document.content_hash if document else ""

    def status(self) -> dict[str, object]:
        import json

        out = subprocess.run(
            [sys.executable, "-m", "pipeline", "status", "--json"], cwd=self.folder, env=self._environment, capture_output=True, check=True
        )
        return dict(json.loads(out.stdout))

    def stop(self) -> None:
        self._stop.set()
        if "reader" in vars(self):
            self.reader.close()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)


@contextlib.contextmanager
def stack(folder: Path | None = None, *, source: str = "", fresh: bool = False, **options: Any) -> Iterator[Stack]:
    """A running stack, stopped at the end; in a temporary folder unless one is given. `fresh`: without what earlier ones left there."""
    place = folder or Path(tempfile.mkdtemp(prefix="dropdex-bench-"))
    if fresh:
        for left in ("index", ".dropdex", "reader-cache"):
            shutil.rmtree(place / left, ignore_errors=True)
    running = Stack(place, source=source, **options)
    try:
        yield running
    finally:
        running.stop()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


@dataclass
class Taken:
    seconds: float = 0.0


@contextlib.contextmanager
def timer() -> Iterator[Taken]:
    """Seconds that the block takes."""
    taken, begin = Taken(), time.perf_counter()
    yield taken
    taken.seconds = time.perf_counter() - begin
