"""What the pipeline itself costs, with embedders that cost little: disk to published, and a restart with nothing to do."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import corpus
from benchmarks.report import Row
from benchmarks.stack import stack, timer

ROUNDS = 5
FILES = 50_000
RESTART_FILES = 100_000
AFTER_READY = 5.0
"""Seconds that memory is watched for beyond that: with few files it is ready before every program has grown."""


def cold_rate(folder: Path, number: int, model: str) -> float:
    """Documents a second of a stack that finds `number` files, from its first publication to its last. Forgets the index again."""
    with stack(folder, fresh=True, refresh_every=0.1, model=model) as running:
        running.until(lambda: running.documents() > 0)
        first = running.documents()
        with timer() as took:
            running.until(lambda: running.documents() == number, what=f"{number} documents", step=0.02)
        return (number - first) / took.seconds


def hashed() -> Iterator[Row]:
    yield from _small_files("hash:256", "hash embedder", ">= 2000")


def static() -> Iterator[Row]:
    yield from _small_files("wordllama:256", "static model wordllama", ">= 1500")


def _small_files(model: str, name: str, bar: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as folder:
        corpus.fill(Path(folder) / "inbox", FILES)
        rates = [cold_rate(Path(folder), FILES, model) for _ in range(ROUNDS)]
        yield Row(f"{name}, {FILES:,} files, disk to published", statistics.median(rates), "documents/s", bar)


def restart() -> Iterator[Row]:
    """Start, with everything already published: first over few documents, then over many."""
    with tempfile.TemporaryDirectory(prefix="dropdex-bench-") as name:
        folder = Path(name)
        _, small = _restarts(folder, 1_000, rounds=1)
        seconds, large = _restarts(folder, RESTART_FILES, rounds=ROUNDS)
        yield Row(f"restart with nothing changed, {RESTART_FILES:,} files, ready after", seconds, "s", "<= 3.0")
        yield Row("peak memory at that restart / with 1,000 files", large / small, "times", "<= 1.5")
        with stack(folder, model="hash:256") as running:
            running.until_ready()
            embedded = float(str(running.status()["embedded_total"]))
        yield Row("embedded at those restarts", embedded - RESTART_FILES, "passages", "<= 0")


def _restarts(folder: Path, files: int, rounds: int) -> tuple[float, float]:
    """Median seconds to ready; and the most memory in MB of one more start and what follows, as watching it slows a start down."""
    corpus.fill(folder / "inbox", files)
    with stack(folder, model="hash:256") as running:
        running.until(lambda: running.documents() == files, what=f"{files} documents", step=0.02)
        running.until(lambda: running.status()["stage"] == "idle", what="the last merge", step=1.0)  # else a start has something to do
    seconds = []
    for _ in range(rounds):
        with stack(folder, model="hash:256") as running:
            seconds.append(running.until_ready())
    with stack(folder, watch_memory=True, model="hash:256") as running:
        running.until_ready()
        time.sleep(AFTER_READY)
    return statistics.median(seconds), running.peak_mb
