"""What a benchmark says: rows of name, value, unit, bar and whether it holds; printed, drawn and written down."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent


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
