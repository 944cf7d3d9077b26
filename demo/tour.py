"""The tour that both demos take: drop the documents of examples/, ask about them, change one, delete one.

The pipeline and the model are real. Every step waits for what a reader of the index sees, and every wait has an end:
then it says in a sentence what did not come.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from pipeline import Hit, Reader

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMAND = Path(sys.executable).with_name("dropdex")
MODEL = "all-MiniLM-L6-v2"

QUESTIONS = ("how does the moon move the sea?", "who wrote down what bees say to each other?", "my wheel has a flat tyre")
CHANGED, NEW_TEXT, NEW_QUESTION = (
    "sourdough.md",
    "# The observatory\n\nOn clear Friday nights visitors may look at Saturn through the old brass telescope on the hill.\n",
    "where can I look through a telescope?",
)
DELETED = "bicycle-repair.txt"

READY_SECONDS = 120.0
"""Starting takes ten seconds; a busy machine with cold disks gets more."""

PUBLISH_SECONDS = 60.0
STOP_SECONDS = 90.0
POLL_SECONDS = 0.01


class DemoFailed(Exception):
    """Something that a person was promised to see did not come. The message says what."""


class Pipeline:
    """`dropdex up` as a person starts it, and what it printed."""

    def __init__(self, folder: Path, source: str = "", **settings: str) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DROPDEX_")}
        self.environment = {**clean, "DROPDEX_MODEL": MODEL, "DROPDEX_FLOWER_PORT": "0", **settings}
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [COMMAND, "up", *([source] if source else [])],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def wait_until_ready(self) -> str:
        """What it said when it was ready."""
        await_(lambda: self._said("ready after"), "dropdex up did not get ready", READY_SECONDS, self)
        return self._said("ready after")

    def _said(self, words: str) -> str:
        return next((line for line in list(self.lines) if words in line), "")

    def check(self) -> None:
        if self._process.poll() is not None:
            raise DemoFailed(f"dropdex up ended with status {self._process.returncode}:\n" + "\n".join(self.lines[-10:]))

    def ask(self, *arguments: str) -> str:
        """What another command prints, asked in the same folder."""
        done = subprocess.run(
            [COMMAND, *arguments], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise DemoFailed(f"dropdex {' '.join(arguments)} ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.rstrip()

    def stop(self) -> int:
        """Press Ctrl-C, wait, and return how many processes went. Raises where one is left."""
        started = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DemoFailed(f"dropdex up did not stop within {STOP_SECONDS:.0f} s of Ctrl-C") from error
        left = psutil.wait_procs(started, timeout=5)[1]
        if left or code:
            raise DemoFailed(f"after Ctrl-C: exit status {code}, still running: {', '.join(str(process) for process in left) or 'nothing'}")
        return len(started) + 1

    def kill(self) -> None:
        """Whatever happened, leave nothing behind: every program dies with the one that started it."""
        self._process.kill()
        self._process.wait()


def await_(happened: Callable[[], object], failure: str, seconds: float, pipeline: Pipeline) -> float:
    """Wait until something is true; returns the clock's reading then. Raises DemoFailed when it takes too long."""
    deadline = time.monotonic() + seconds
    while not happened():
        pipeline.check()
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure} within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic()


@contextmanager
def running(folder: Path, source: str = "", **settings: str) -> Iterator[Pipeline]:
    pipeline = Pipeline(folder, source, **settings)
    try:
        yield pipeline
    finally:
        pipeline.kill()


class Place(Protocol):
    """Where people drop documents: a folder or a bucket."""

    name: str

    def put(self, name: str, data: bytes) -> None: ...

    def remove(self, name: str) -> None: ...

    def uri(self, name: str) -> str: ...


class Tour:
    """The steps of the demo: each does something to the place and waits until the index follows."""

    def __init__(self, pipeline: Pipeline, reader: Reader, place: Place) -> None:
        self._pipeline, self._reader, self.place = pipeline, reader, place

    def drop(self, files: list[Path]) -> dict[str, float]:
        """Seconds from each file's drop to the moment a reader found it, by name."""
        dropped: dict[str, float] = {}
        found: dict[str, float] = {}
        for file in files:
            self.place.put(file.name, file.read_bytes())
            dropped[file.name] = time.monotonic()
        deadline = time.monotonic() + PUBLISH_SECONDS
        while missing := dropped.keys() - found.keys():
            self._pipeline.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"not searchable within {PUBLISH_SECONDS:.0f} s: {', '.join(sorted(missing))}")
            found.update({name: time.monotonic() - dropped[name] for name in missing if self._version(name)})
            time.sleep(POLL_SECONDS)
        return found

    def change(self, name: str, text: str) -> float:
        """Seconds until a reader found the new text."""
        before = self._version(name)
        self.place.put(name, text.encode())
        started = time.monotonic()
        return (
            await_(lambda: self._version(name) not in {before, ""}, f"the new {name} was not searchable", PUBLISH_SECONDS, self._pipeline)
            - started
        )

    def delete(self, name: str) -> float:
        """Seconds until no reader found the document any more."""
        self.place.remove(name)
        started = time.monotonic()
        return await_(lambda: not self._version(name), f"{name} was still searchable", PUBLISH_SECONDS, self._pipeline) - started

    def search(self, question: str, k: int = 2) -> list[Hit]:
        return self._reader.search(question, k)

    def _version(self, name: str) -> str:
        """The content that a reader has of the document; empty while it has none."""
        snapshot = self._reader.snapshot
        document = snapshot.document(self.place.uri(name)) if snapshot else None
        return document.content_hash if document else ""


def show(tour: Tour) -> None:
    files = sorted(EXAMPLES.iterdir())
    title(f"drop {len(files)} documents into {tour.place.name}")
    for name, seconds in sorted(tour.drop(files).items(), key=lambda drop: drop[1]):
        print(f"{name:24} searchable after {seconds:.2f} s")
    title("search")
    for question in QUESTIONS:
        show_hits(question, tour.search(question))
    title(f"overwrite {CHANGED}")
    print(f"its new text is searchable after {tour.change(CHANGED, NEW_TEXT):.2f} s")
    hits = tour.search(NEW_QUESTION, 1)
    show_hits(NEW_QUESTION, hits)
    expect(hits[0].uri.endswith(CHANGED), "the changed document is not the first hit for its new text")
    title(f"delete {DELETED}")
    print(f"it is gone after {tour.delete(DELETED):.2f} s")
    hits = tour.search(QUESTIONS[-1], 1)
    show_hits(QUESTIONS[-1], hits)
    expect(not any(hit.uri.endswith(DELETED) for hit in hits), "the deleted document is still found")


def expect(truth: bool, failure: str) -> None:
    if not truth:
        raise DemoFailed(failure)


def title(text: str) -> None:
    print(f"\n── {text} {'─' * max(4, 90 - len(text))}", flush=True)


def show_hits(question: str, hits: list[Hit]) -> None:
    expect(bool(hits), f"no answer to: {question}")
    print(f"? {question}")
    for hit in hits:
        print(f"  {hit.score:.2f}  {hit.uri.rpartition('/')[2]}")
        print(textwrap.indent(textwrap.shorten(hit.text, 100, placeholder=" …"), " " * 8))


def run(main: Callable[[], None]) -> None:
    """Take the tour; a failure is one sentence and a status."""
    try:
        main()
    except DemoFailed as error:
        sys.exit(f"\nthe demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
