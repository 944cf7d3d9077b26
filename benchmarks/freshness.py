"""From a change on disk to a reader that sees it, one at a time, over an index of 2,000 files and the real model."""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import corpus
from benchmarks.report import Row
from benchmarks.stack import Stack, stack

TRIES = 20


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def timed(running: Stack, change: Callable[[Path, str], object], seen: Callable[[Path], Callable[[], bool]]) -> list[float]:
    """Seconds for each of TRIES changes to be seen, at random moments."""
    times = []
    for number, text in enumerate(corpus.texts(TRIES, seed=int(time.time()))):
        path = running.inbox / f"dropped-{number}.txt"
        condition = seen(path)
        begin = time.perf_counter()
        change(path, text)
        running.until(condition)
        times.append(time.perf_counter() - begin)
        time.sleep(random.random() * 0.4)
    return times


def model() -> Iterator[Row]:
    """Drop, change, delete; then a restart with nothing changed."""
    folder = Path(tempfile.mkdtemp(prefix="dropdex-bench-"))
    try:
        corpus.fill(folder / "inbox", 2_000)
        with stack(folder) as running:
            running.until_ready()

            def changed(path: Path) -> Callable[[], bool]:
                before = running.content_of(path)
                return lambda: running.content_of(path) not in {"", before}

            steps = {
                "drop": (Path.write_text, changed),
                "change": (Path.write_text, changed),
                "delete": (lambda path, _: path.unlink(), lambda path: lambda: not running.content_of(path)),
            }
            for name, (change, seen) in steps.items():
                times = timed(running, change, seen)
                yield Row(f"{name} to found, 2,000 files, p50", statistics.median(times), "s", "<= 0.30")
                yield Row(f"{name} to found, 2,000 files, p95", quantile(times, 0.95), "s", "<= 0.60")
        with stack(folder) as running:
            yield Row("restart with nothing changed, ready after", running.until_ready(), "s", "<= 20")
            before = float(str(running.status()["embedded_total"]))
            yield Row("embedded at that restart", before - 2_000 - 2 * TRIES, "passages", "<= 0")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
