"""The real pipeline with an embedder that only sleeps, and more and more workers: where does the plumbing saturate?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import corpus
from benchmarks.scale.cluster import cluster

MILLISECONDS = 2.0
"""Sleep per passage: 500 documents a second per worker if nothing else took time."""
WORKERS = (1, 2, 4, 8)
SECONDS = 6
"""How long each run would take if only the embedder took time."""
MOST = 20_000
"""Documents, so that the files are made in reasonable time."""


class Step(NamedTuple):
    """One number of workers. `busy`: share of one core by program, all embedding workers together."""

    workers: int
    documents: int
    rate: float
    ideal: float
    busy: dict[str, float]
    machine: float
    """Share of all cores that was busy, whoever used them."""


def step(workers: int) -> Step:
    """Drop so many files at once and wait until all are published."""
    ideal = workers * 1000 / MILLISECONDS
    number = min(MOST, int(ideal * SECONDS))
    with cluster(sleep=MILLISECONDS, workers=workers) as running:
        corpus.fill(running.folder / "staged", number, 100)
        before = running.cpu_seconds()
        psutil.cpu_percent()
        (running.folder / "staged").rename(running.inbox / "dropped")
        seconds = running.until(lambda: running.documents() == number)
        machine, after = psutil.cpu_percent() / 100, running.cpu_seconds()
        busy = {name: round((after[name] - before[name]) / seconds, 3) for name in sorted(after)}
        return Step(workers, number, number / seconds, ideal, busy, machine)


def bottleneck(step: Step, cores: int) -> str:
    """Pure: what keeps this step from being faster."""
    single = {name: share for name, share in step.busy.items() if name != "embedding"}
    busiest = max(single, key=single.__getitem__)
    if step.rate >= 0.85 * step.ideal:
        return "the sleep itself"
    if single[busiest] > 0.85:
        return busiest
    if step.machine > 0.9:
        own = sum(step.busy.values()) > 0.7 * cores
        return f"the {cores} cores" if own else "other load on the machine"
    return f"waiting; busiest: {busiest}"


def steps() -> Iterator[Step]:
    return map(step, WORKERS)


def draw(taken: list[Step], path: Path) -> None:
    """Documents per second against workers, and whose processor time it took."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    workers = [one.workers for one in taken]
    left.plot(workers, [one.ideal for one in taken], "--", color="grey", label="if only the embedder took time")
    left.plot(workers, [one.rate for one in taken], "o-", color="#2a7f4f", label="measured")
    left.set(xlabel="embedding workers", ylabel="documents/s", xticks=workers, ylim=(0, None))
    left.legend()
    places, bottom = range(len(taken)), [0.0] * len(taken)
    for name in sorted({name for one in taken for name in one.busy}):
        heights = [one.busy.get(name, 0.0) for one in taken]
        right.bar(places, heights, bottom=bottom, label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    right.set(xlabel="embedding workers", ylabel="cores busy, by program", xticks=list(places), xticklabels=workers)
    right.axhline(os.cpu_count() or 1, color="black", linewidth=1)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
