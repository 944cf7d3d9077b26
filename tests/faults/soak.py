"""`python -m tests.faults.soak`: documents come and go, and every five seconds something is killed. Nothing may fail, or grow.

Draws docs/soak.png and writes the figures into docs/reliability.md. Exits with 1 where a query failed, the index is not the
source in the end, or memory or disk went on growing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.faults.report import PAGE, replace_section
from tests.faults.stack import PROGRAMS, Stack

KILL_EVERY = 5.0
SAMPLE_EVERY = 2.0
PACE = 0.1
"""Seconds between two operations of people."""

VALKEY_MB = 200.0

GROWTH = 1.3
"""The last third may need this much more than the middle one: starts after kills make it noisy."""


@dataclass
class Samples:
    """One line per moment: minutes, megabytes of memory, of the index with what belongs to it, of Valkey's file, documents.

    Valkey's append-only file grows until it is rewritten, at 64 MB and then at twice what was left: a bound, and no growth.
    """

    minutes: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    disk: list[float] = field(default_factory=list)
    valkey: list[float] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)

    def take(self, stack: Stack, minutes: float) -> None:
        self.minutes.append(minutes)
        self.memory.append(sum(memory_of(process) for process in stack.running.alive()) / 1e6)
        self.disk.append((size_below(stack.root / "index") + size_below(stack.root / "state")) / 1e6)
        self.valkey.append(size_below(stack.root / "broker") / 1e6)
        self.documents.append(len(stack.people.here))

    def growth(self, values: list[float]) -> float:
        """Median of the last third over that of the middle one."""
        third = len(values) // 3
        return statistics.median(values[-third:]) / statistics.median(values[third : 2 * third])


def memory_of(process: psutil.Process) -> int:
    """Pages of its own; what forked children share counts with their parent."""
    with suppress(psutil.Error):
        return int(process.memory_full_info().uss)
    return 0


def size_of(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_blocks * 512
    return 0


def size_below(folder: Path) -> int:
    return sum(size_of(path) for path in folder.rglob("*"))


def soak(stack: Stack, minutes: float, seed: int) -> tuple[Samples, int, list[str]]:
    """Load and kills until the time is over, then rest. Returns samples, how many were killed, and violations."""
    stack.chance = stack.people.chance = random.Random(seed)
    begin = kill_at = sample_at = clean_at = time.monotonic()
    samples, killed = Samples(), 0
    while (now := time.monotonic()) < begin + minutes * 60:
        stack.people.step()
        stack.supervise()
        if now >= kill_at:
            kill_at = now + KILL_EVERY
            killed += kill(stack)
        if now >= sample_at:
            sample_at = now + SAMPLE_EVERY
            samples.take(stack, (now - begin) / 60)
        if now >= clean_at:
            clean_at = now + 20
            clean(stack)
        time.sleep(PACE)
    violations = stack.rest()
    return samples, killed, violations + stack.stop()


def kill(stack: Stack) -> bool:
    """Any program, a child of one, or Valkey."""
    victim = stack.chance.choice([*PROGRAMS, "child", "valkey"])
    if victim == "valkey":
        return stack.kill_broker(data=stack.chance.random() < 0.8)
    return stack.kill("indexing", child=True) if victim == "child" else stack.kill(victim)


def clean(stack: Stack) -> None:
    """What Beat does once a day, three times a minute."""
    from pipeline.index import upkeep

    with suppress(Exception):  # Redis may be away; the next time comes
        in_use = stack.context.ledger.shards_in_use()
        upkeep.gc(stack.context.home, 3, 15.0, time.time(), in_use=in_use)


def draw(samples: Samples) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, sharex=True, figsize=(8, 8))
    rows = (
        (samples.memory, "memory, MB"),
        (samples.disk, "index, MB"),
        (samples.valkey, "Valkey's file, MB"),
        (samples.documents, "documents"),
    )
    for axis, (values, label) in zip(axes, rows, strict=True):
        axis.plot(samples.minutes, values, linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes; something is killed every five seconds")
    figure.tight_layout()
    figure.savefig(PAGE.parent / "soak.png", dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with Stack() as stack:
        samples, killed, violations = soak(stack, arguments.minutes, arguments.seed)
        asked, generations = stack.questioner.asked, stack.generations
    growth = {name: samples.growth(values) for name, values in (("memory", samples.memory), ("disk", samples.disk))}
    violations += [f"{name} grew by {share:.2f} from the middle third to the last" for name, share in growth.items() if share > GROWTH]
    if max(samples.valkey) > VALKEY_MB:
        violations.append(f"Valkey's file has {max(samples.valkey):.0f} MB")
    lines = [
        f"{arguments.minutes:g} minutes, {killed} kills, {asked:,} queries, {generations:,} generations verified, "
        f"{len(violations)} violations. Memory {statistics.median(samples.memory):.0f} MB and index "
        f"{statistics.median(samples.disk):.1f} MB in the median; "
        f"Valkey's file {max(samples.valkey):.0f} MB at the most; "
        f"memory and index of the last third are {growth['memory']:.2f} and {growth['disk']:.2f} times those of the middle one.",
        "",
        "![memory, disk and documents over time](soak.png)",
    ]
    print("\n".join([*lines, *violations]))
    draw(samples)
    replace_section("soak", lines)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
