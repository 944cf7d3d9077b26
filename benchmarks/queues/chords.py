"""The same number of documents through dropdex: a folder, chords of batches, four embedding workers, a published index.

A document costs more than a task: it is read, hashed, settled in the ledger, written into a shard and published. In
return it goes in a batch, and its message is not what the guarantee rests on.
"""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from benchmarks import corpus
from benchmarks.freshness import quantile
from benchmarks.queues.contest import STEADY_RATE, STEADY_TASKS, Steady, Workload
from benchmarks.scale.cluster import cluster

WORKERS = 4


class Chords(NamedTuple):
    """From the first event until the last document is published; steady: from an event until its generation."""

    rate: float
    worker_cpu: float
    """Processor seconds of all programs, the watcher, the builder and Valkey included."""
    megabytes: float
    steady: Steady


def chords(load: Workload) -> Chords:
    """Nothing is embedded by hashing, `burn` milliseconds are burnt per passage; a document of ten words is one passage."""
    with cluster(burn=load.burn, workers=WORKERS) as running:
        corpus.fill(running.folder / "staged", load.tasks, 10)
        before = sum(running.cpu_seconds().values())
        (running.folder / "staged").rename(running.inbox / "dropped")
        seconds = running.until(lambda: running.documents() == load.tasks)
        cpu, memory = sum(running.cpu_seconds().values()) - before, running.megabytes()
    return Chords(load.tasks / seconds, cpu, memory, steady(load))


def steady(load: Workload) -> Steady:
    """One file every 1/STEADY_RATE seconds, and the ledger's own account of how long each took to be published."""
    with cluster(burn=load.burn, workers=WORKERS) as running:
        begin = time.monotonic()
        for number, text in enumerate(corpus.texts(STEADY_TASKS, 10)):
            time.sleep(max(0.0, begin + number / STEADY_RATE - time.monotonic()))
            (running.inbox / f"{number}.txt").write_text(text)
        running.until(lambda: running.documents() == STEADY_TASKS)
        waits = running.context.ledger.freshness()
        return Steady(statistics.mean(waits), quantile(waits, 0.95))
