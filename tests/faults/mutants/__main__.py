"""`python -m tests.faults.mutants`: plants deliberate bugs, one at a time, in a copy of the tree. The suite must find each.

A patch says in its first two lines what it breaks, and which fault is meant to show it. Names of patches, as arguments,
choose some. Exits with 1 where one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.report import replace_section

ROOT = Path(__file__).parents[3]
PATCHES = sorted(Path(__file__).parent.glob("*.patch"))
HISTORIES = 450
"""Seeds that are looked through for histories with the fault: some twenty of them have it."""


def main() -> int:
    lines, survived = ["| bug | what it breaks | shown by | found after |", "|---|---|---|---|"], 0
    for patch in PATCHES:
        if len(sys.argv) > 1 and patch.stem not in sys.argv[1:]:
            continue
        what, by = patch.read_text().splitlines()[:2]
        fault = by.removeprefix("Caught by: ")
        begin = time.monotonic()
        said = survivor(patch, fault)
        seconds = time.monotonic() - begin
        survived += not said
        print(f"{patch.stem:28} {f'caught after {seconds:.0f} s: {said}' if said else 'SURVIVED'}", flush=True)
        lines.append(f"| {patch.stem} | {what} | {fault} | {f'{seconds:.0f} s' if said else 'never'} |")
    if len(sys.argv) == 1:
        replace_section("mutants", lines)
    return 1 if survived else 0


def survivor(patch: Path, fault: str) -> str:
    """Run the suite on a copy with the bug. Returns the first violation, nothing where there was none."""
    with tempfile.TemporaryDirectory(prefix="mutant-", dir="/tmp") as folder:
        for name in ("pipeline", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["patch", "--strip=1", "--quiet", f"--input={patch}"], cwd=folder, check=True)
        arguments = ["--lane", "folder", "--fault", fault, "--histories", str(HISTORIES), "--first-violation"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    found = [line.partition("VIOLATION: ")[2] for line in done.stdout.splitlines() if "VIOLATION: " in line]
    return found[0][:110] if done.returncode == 1 and found else ""


if __name__ == "__main__":
    sys.exit(main())
