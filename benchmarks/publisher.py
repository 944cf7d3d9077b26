"""`python -m benchmarks.publisher FOLDER`: another process that publishes, so that a reader's queries share no interpreter with it.

Every line on its input is "SECONDS INTERVAL": publish a new document of twenty passages every INTERVAL for SECONDS, merge what
is due, and answer with the number of publications.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import numpy as np

from benchmarks.synthetic import document, open_writer, publish
from pipeline.blobs.folder import FolderStore
from pipeline.index.home import Home
from pipeline.sinks.swap import Swap

FIRST = 2 * 10**7


class Publisher:
    """The other process, as whoever measures sees it."""

    def __init__(self, home: Home, *, cores: set[int] | None = None) -> None:
        """On `cores` alone, where they are given."""
        assert isinstance(home.blobs, FolderStore)
        command = [sys.executable, "-m", "benchmarks.publisher", str(home.blobs.root)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if cores:
            os.sched_setaffinity(self._process.pid, cores)
        self.ask(0.3, 0.1)  # its first publication opens the index

    def ask(self, seconds: float, interval: float) -> int:
        """The number of publications in these seconds; none where `interval` is longer than they are."""
        self.start(seconds, interval)
        return self.wait()

    def start(self, seconds: float, interval: float) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{seconds} {interval}\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def main(folder: str) -> None:
    home, chance, number = Home(FolderStore(Path(folder))), np.random.default_rng(5), FIRST
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as scratch:
        writer = open_writer(home, Path(scratch))
        for line in sys.stdin:
            seconds, interval = map(float, line.split())
            begin, published = time.monotonic(), 0
            while (due := begin + (published + 1) * interval) < begin + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                publish(home, writer, [document(number, 20, chance)])
                while plan := writer.plan_merge():
                    writer.commit(plan, Swap(home).publish)
                published, number = published + 1, number + 1
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            print(published, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
