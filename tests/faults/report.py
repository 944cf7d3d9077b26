"""The results, as a table on the terminal and between the markers of docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.faults.lanes import LANES, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A line per kind of fault: how often it struck, in how many histories, and how many violations those had."""
    hits, histories, violations = Counter[str](), Counter[str](), Counter[str]()
    for outcome in outcomes:
        hits.update(outcome.hits)
        for name in outcome.plan.faults:
            histories[name] += 1
            violations[name] += bool(outcome.violations)
    lines = ["| fault | times hit | histories | with violations |", "|---|---:|---:|---:|"]
    for _, faults, _ in LANES:
        lines += [f"| {name} | {hits[name]} | {histories[name]} | {violations[name]} |" for name in sorted(faults)]
    return lines


def summary(outcomes: Sequence[Outcome], seed: int, seconds: float) -> str:
    bad = sum(bool(outcome.violations) for outcome in outcomes)
    return (
        f"{len(outcomes)} histories from seed {seed} in {seconds / 60:.1f} minutes: {sum(o.asked for o in outcomes):,} queries, "
        f"{sum(o.generations for o in outcomes):,} generations verified byte for byte, {bad} histories with violations."
    )


def write(outcomes: Sequence[Outcome], seed: int, seconds: float) -> None:
    """Replace the results in the page by these."""
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    replace_section("faults", [summary(outcomes, seed, seconds), f"({machine})", "", *table(outcomes)])


def replace_section(name: str, lines: Sequence[str]) -> None:
    """What stands between two markers of the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = PAGE.read_text()
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    PAGE.write_text(f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}")
