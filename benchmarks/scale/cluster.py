"""The real pipeline under the stub, watched from outside: processor time by program, Redis, the index and its stages."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.scale import stub
from pipeline.base.settings import load
from pipeline.context import Context

ROOT = Path(__file__).parent.parent.parent
STEP = 0.02


class Cluster:
    """`up` over `folder / "inbox"` (or the named source), every program under the stub."""

    def __init__(self, folder: Path, *, sleep: float, burn: float, notes: bool, source: str, **settings: object) -> None:
        self.folder, self.inbox, self._notes = folder, folder / "inbox", folder / "notes"
        self.inbox.mkdir(exist_ok=True)
        self._notes.mkdir(exist_ok=True)
        chosen = {"model": "hash:384", "flower_port": 0, **settings}
        environment = {
            **os.environ,
            **{f"DROPDEX_{name.upper()}": str(value) for name, value in chosen.items()},
            stub.MILLISECONDS: str(sleep),
            stub.BURN: str(burn),
            stub.NOTES: str(self._notes) if notes else "",
            "PYTHONPATH": str(ROOT),
        }
        with (folder / "up.log").open("wb") as out:
            command = [sys.executable, "-m", stub.__name__, "--with-parent", str(os.getpid()), "up", *([source] if source else [])]
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
        state, index = folder / ".dropdex", chosen.get("index", f"file:{folder / 'index'}")
        self.context = Context(load(broker=f"embedded:{state}", state=state, index=index, model=chosen["model"]))

    def until(self, condition: Callable[[], object], seconds: float = 600.0) -> float:
        """Seconds until `condition` holds. Raises TimeoutError."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > seconds or self._process.poll() is not None:
                raise TimeoutError(f"the pipeline did not get there: {(self.folder / 'up.log').read_text()[-500:]}")
            time.sleep(STEP)
        return time.monotonic() - begin

    def until_ready(self) -> None:
        """Ready, and whatever starts after that has started."""
        self.until(lambda: "ready after" in (self.folder / "up.log").read_text())
        self.until(lambda: any(name.startswith("maintenance") for name in self.context.ledger.alive()))

    def documents(self) -> int:
        """Documents of the published generation."""
        found = self.context.home.current()
        return found[0].live_documents if found else 0

    def settled(self, number: int) -> bool:
        """Whether the ledger knows so many documents and waits for none of them. Asks the home nothing, so no bucket either."""
        counts = self.context.ledger.counts()
        return counts["documents"] == number and not counts["noticed"] + counts["settled"]

    def cpu_seconds(self) -> Counter[str]:
        """Processor seconds so far by program: embedding, indexing, maintenance, watch, beat, valkey, up."""
        seconds: Counter[str] = Counter()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                seconds[program(process.cmdline())] += sum(process.cpu_times()[:2])
        return seconds

    def megabytes(self) -> float:
        """Proportional set size of all programs."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 1e6

    def _processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def redis(self) -> dict[str, Any]:
        """What Redis says of itself."""
        info: Any = self.context.redis.info()
        return dict(info)

    def stages(self) -> Counter[str]:
        """Processor seconds by stage so far, as the programs noted them."""
        time.sleep(3 * stub.EVERY)
        seconds: Counter[str] = Counter()
        for path in self._notes.glob("*.json"):
            with contextlib.suppress(json.JSONDecodeError):  # it is being written
                seconds.update(json.loads(path.read_text()))
        return seconds

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(90)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def program(command: list[str]) -> str:
    """What a process is for, by its command line."""
    words = set(command)
    if "valkey" in (command[0] if command else ""):
        return "valkey"
    return next((name for name in ("embedding", "indexing", "maintenance", "watch", "beat", "up") if name in words), "other")


@contextmanager
def cluster(
    *, sleep: float = 0.0, burn: float = 0.0, notes: bool = False, folder: Path | None = None, source: str = "", **settings: Any
) -> Iterator[Cluster]:
    """A running pipeline, stopped at the end; in a temporary folder unless one is given."""
    place = folder or Path(tempfile.mkdtemp(prefix="dropdex-scale-"))
    running = Cluster(place, sleep=sleep, burn=burn, notes=notes, source=source, **settings)
    try:
        running.until_ready()
        yield running
    finally:
        running.stop()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
