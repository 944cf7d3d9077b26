"""What a benchmark says: rows of name, value, unit, bar and whether it holds; printed, drawn and written down."""

from __future__ import annotations

import json
import operator
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


@dataclass(frozen=True)
class Row:
    """One figure. `bar` is what it has to keep, such as "<= 0.30"; empty where it is only told."""

    name: str
    value: float
    unit: str
    bar: str = ""

    @property
    def holds(self) -> bool | None:
        if not self.bar:
            return None
        sign, _, limit = self.bar.partition(" ")
        return bool({"<=": operator.le, ">=": operator.ge}[sign](self.value, float(limit)))


def show(row: Row) -> None:
    mark = {None: "", True: "holds", False: "MISSED"}[row.holds]
    print(f"  {row.name:58} {row.value:12,.3f} {row.unit:12} {row.bar:12} {mark}", flush=True)


def write(rows: Sequence[Row], path: Path = HERE / "latest.json") -> None:
    """The rows as a list of {name, value, unit, bar, holds}; rows of an earlier run that this one did not measure stay."""
    earlier = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    now = {row.name: {**asdict(row), "value": round(row.value, 4), "holds": row.holds} for row in rows}
    path.write_text(json.dumps(list((earlier | now).values()), indent=1) + "\n")


def draw(path: Path = HERE / "latest.png") -> None:
    """How far each figure is from its bar: right of the line it holds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in json.loads((HERE / "latest.json").read_text()) if row["bar"]]
    margins = []
    for row in rows:
        sign, _, limit = row["bar"].partition(" ")
        value, bar = max(row["value"], 1e-9), max(float(limit), 1e-9)
        margins.append(value / bar if sign == ">=" else bar / value)
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.32 * len(rows)))
    colours = ["#2a7f4f" if row["holds"] else "#b3402a" for row in rows]
    axes.barh([f"{row['name']}  ({row['value']:g} {row['unit']}, bar {row['bar']})" for row in rows], margins, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("times better than the bar")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def machine() -> str:
    """What the figures were measured on, in one line."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def versions(distributions: Sequence[str]) -> dict[str, str]:
    return {name: metadata.version(name) for name in distributions}


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column is text, the others are figures."""
    rules = ("---", *("---:" for _ in headings[1:]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *lines))


def insert(page: Path, name: str, text: str) -> None:
    """Put `text` between the page's two comments of this name; what was there goes. No figure is ever copied by hand."""
    begin, end = f"<!-- {name}: written by the benchmarks -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page} has no place for {name}: {begin} … {end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def publish(page: Path = DOCS / "benchmarks.md") -> None:
    """Render latest.json into the documentation."""
    marks = {None: "", True: "holds", False: "**missed**"}
    rows = json.loads((HERE / "latest.json").read_text())
    lines = [
        (row["name"], f"{row['value']:,g} {row['unit']}", row["bar"].replace("<=", "≤").replace(">=", "≥"), marks[row["holds"]])
        for row in rows
    ]
    insert(page, "latest", table(("", "measured", "bar", ""), lines))
