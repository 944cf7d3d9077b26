"""Where the programs' time goes while they ingest with an embedder that costs nearly nothing: py-spy looks a hundred times a second."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks import corpus, report
from benchmarks.report import Row
from benchmarks.stack import stack

FILES = 20_000
SECONDS = 6
"""Of sampling: about as long as the files take."""
SHOWN = 8
PROGRAMS = {"watch": " watch ", "embedding": " worker embedding ", "indexing": " worker indexing "}
PAGE = report.DOCS / "benchmarks.md"


def samples() -> Iterator[Row]:
    """The functions of ours that most samples were taken in, or below, per program."""
    found: dict[str, Counter[str]] = {}
    with stack(refresh_every=0.5, model="hash:256") as running:
        running.until_complete()
        corpus.fill(running.folder / "staged", FILES)
        with tempfile.TemporaryDirectory() as folder:
            spies = dict(_spies(running.pid, Path(folder)))
            time.sleep(0.5)
            (running.folder / "staged").rename(running.inbox / "dropped")
            for program, spy in spies.items():
                spy.wait()
                found[program] = _ours(Path(folder, program).read_text())
    lines = [
        (program, function, f"{number / counts.total():.0%}")
        for program, counts in found.items()
        for function, number in counts.most_common(SHOWN)
    ]
    report.insert(PAGE, "samples", report.table(("program", "function", "of its samples"), lines))
    for program, counts in found.items():
        yield Row(f"samples of {program} at work, of {SECONDS} s", counts.total(), "samples")


def _spies(parent: int, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    for program, pid in _at_work(parent).items():
        record = [
            str(Path(sys.executable).with_name("py-spy")),
            "record",
            "--nonblocking",
            "--rate",
            "100",
            "--duration",
            str(SECONDS),
            "--format",
            "raw",
        ]
        output = ["--output", str(folder / program), "--pid", str(pid)]
        yield program, subprocess.Popen([*record, *output], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _at_work(parent: int) -> dict[str, int]:
    """Process of each program. Of a prefork worker it is the child, which comes after its parent."""
    commands = {process.pid: " ".join(process.cmdline()) + " " for process in psutil.Process(parent).children(recursive=True)}
    return {program: pid for pid, command in commands.items() for program, mark in PROGRAMS.items() if mark in command}


def _ours(raw: str) -> Counter[str]:
    """Samples by the innermost function of the pipeline; what waits inside somebody else's loop is not at work."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack_, _, number = line.rpartition(" ")
        ours = [frame for frame in stack_.split(";") if "pipeline/" in frame]
        if ours:
            counts[ours[-1].rpartition(":")[0] + ")"] += int(number)
    return counts
