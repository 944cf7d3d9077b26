"""Runs the measurements and the simulation, keeps both in benchmarks/scale.json, and writes the tables of docs/scale.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from benchmarks import report
from benchmarks.report import Row, insert, table
from benchmarks.scale import model, simulate
from benchmarks.scale.model import Cost, Measured

FIGURES = report.HERE / "scale.json"
PAGE = report.DOCS / "scale.md"
PICTURE = report.DOCS / "scale.png"
PASSAGES = 5.0
"""Passages per document of the predicted corpora: about two pages of text."""
CORPORA = ((10**6, 4), (10**6, 16), (10**8, 16), (10**8, 128))
"""Documents, embedding workers."""
REDIS_GIB = 64.0


def measured() -> Iterator[Row]:
    """What every stage costs on this machine, and what follows from it."""
    from benchmarks.scale import measure

    found = measure.measured()
    _keep("measured", found.to_json())
    _keep("machine", report.machine())
    render_model(found)
    yield Row("processor time per document of one passage, no model", model_free(found) * 1e6, "µs of CPU")
    yield Row("ledger per document", found.redis_bytes.of(1, 1), "bytes of Redis")
    yield Row("Redis commands per document", found.redis_commands.of(1, 1), "commands")
    yield Row("index per passage of 130 words", found.index_bytes.of(1, 1), "bytes")
    yield Row("requests per document of a first ingest, bucket to bucket", sum(found.requests.values()), "requests")


def simulated() -> Iterator[Row]:
    """Documents per second with 1, 2, 4 and 8 workers whose embedder sleeps."""
    found = []
    for one in simulate.steps():
        found.append(one)
        yield Row(f"{one.workers} sleeping embedder{'s' if one.workers > 1 else ''}", one.rate, "documents/s")
    _keep("simulation", [one._asdict() for one in found])
    render_simulation(found)


def model_free(found: Measured) -> float:
    """Processor seconds of everything but embedding, for one document of one passage."""
    return sum(cost.of(1, 1) for cost in found.programs.values()) - found.stages.get("embed", Cost(0, 0)).of(1, 1)


def _keep(name: str, value: Any) -> None:
    record = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(record | {name: value}, indent=1) + "\n")


def render_model(found: Measured) -> None:
    insert(PAGE, "costs", f"{report.machine()}.\n\n{_stages(found)}\n\n{_programs(found)}\n\n{_others(found)}")
    insert(PAGE, "requests", _requests(found))
    insert(PAGE, "prediction", _prediction(found))
    insert(PAGE, "limits", _limits(found))


def _micro(cost: Cost) -> tuple[str, str]:
    return f"{cost.document * 1e6:,.1f}", f"{cost.passage * 1e6:,.1f}"


def _stages(found: Measured) -> str:
    lines = [(name, *_micro(found.stages[name])) for name in sorted(found.stages, key=lambda name: -found.stages[name].of(1, 1))]
    return table(("stage", "µs per document", "µs per passage"), lines)


def _programs(found: Measured) -> str:
    lines = [(name, *_micro(found.programs[name])) for name in sorted(found.programs, key=lambda name: -found.programs[name].of(1, 1))]
    return table(("program", "µs per document", "µs per passage"), lines)


def _others(found: Measured) -> str:
    units = {"Redis, bytes": found.redis_bytes, "Redis, commands": found.redis_commands, "index, bytes": found.index_bytes}
    lines = [(name, f"{cost.document:,.1f}", f"{cost.passage:,.1f}") for name, cost in units.items()]
    lines += [
        ("the packaged model, µs of CPU", "", f"{found.model_seconds * 1e6:,.0f}"),
        ("a listing in which nothing differs, µs of CPU", f"{found.listing_seconds * 1e6:,.1f}", ""),
        ("manifest, bytes for each segment", f"{found.manifest_bytes:,.0f} in all", ""),
        ("merge of everything, exact, µs of CPU", "", f"{found.rebuild_seconds * 1e6:,.1f}"),
    ]
    return table(("", "per document", "per passage"), lines)


def _requests(found: Measured) -> str:
    columns = (found.requests, found.live_requests, found.idle_requests)
    names = sorted({name for column in columns for name in column}, key=lambda name: -found.requests.get(name, 0.0))
    lines = [(name, *(f"{column.get(name, 0.0):.3f}" for column in columns)) for name in names]
    ingest, live, idle = (model.dollars(column) for column in columns)
    month = 30 * 24 * model.HOUR
    lines.append(("dollars", f"{ingest * 1e6:.2f} a million", f"{live * 1e6:.2f} a million", f"{idle * month:.2f} a month"))
    return table(("operation", "per document of a first ingest", "per document uploaded later", "per second of nothing"), lines)


def _prediction(found: Measured) -> str:
    made = [model.predict(found, documents, PASSAGES, workers) for documents, workers in CORPORA]
    lines = [
        ("documents per second", *(f"{one.rate:,.0f}" for one in made)),
        ("busy all the time", *(one.bound for one in made)),
        ("first ingest, hours", *(f"{one.hours:,.1f}" for one in made)),
        ("CPU hours", *(f"{one.cpu_hours:,.0f}" for one in made)),
        ("Redis, GiB", *(f"{one.redis_gib:,.1f}" for one in made)),
        ("index, GiB", *(f"{one.index_gib:,.1f}" for one in made)),
        ("first ingest, processors and Redis, $", *(f"{one.compute_dollars:,.2f}" for one in made)),
        ("first ingest, requests, $", *(f"{one.request_dollars:,.2f}" for one in made)),
        ("index in S3, $ a month", *(f"{one.storage_dollars_month:,.2f}" for one in made)),
        ("CPU of a listing in which nothing differs, minutes", *(f"{one.listing_minutes:,.1f}" for one in made)),
    ]
    return table(("", *(f"{one.documents:,} documents, {one.workers} workers" for one in made)), lines)


def _limits(found: Measured) -> str:
    broken = model.limits(found, PASSAGES, reconcile_every=900.0, rebuild_every=3600.0, redis_gib=REDIS_GIB)
    lines = [(f"{one.documents / 1e6:,.1f} million", one.what, one.then) for one in broken]
    text = table(("documents", "then", "what helps"), lines)
    return text.replace("| ---: | ---: |", "| --- | --- |")


def render_simulation(found: list[simulate.Step]) -> None:
    simulate.draw(found, PICTURE)
    programs = sorted({name for one in found for name in one.busy}, key=lambda name: -max(one.busy.get(name, 0.0) for one in found))
    lines = [
        (
            str(one.workers),
            f"{one.ideal:,.0f}",
            f"{one.rate:,.0f}",
            *(f"{one.busy.get(name, 0.0):.2f}" for name in programs),
            f"{one.machine:.0%}",
            simulate.bottleneck(one, os.cpu_count() or 1),
        )
        for one in found
    ]
    headings = (
        "workers",
        "if only the embedder took time",
        "documents/s",
        *(f"{name}, cores" for name in programs),
        "machine",
        "held up by",
    )
    insert(PAGE, "simulation", f"{report.machine()}.\n\n{table(headings, lines)}\n\n![documents per second and cores by worker](scale.png)")
