"""The worker processes of one library: started as its documentation says, frozen, let go, measured, killed.

Frozen by SIGSTOP while a queue fills, so that no library competes with the one process that sends and every drain
begins with the whole queue there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent


class Crew:
    """`python -m COMMAND` and everything that it starts."""

    def __init__(self, command: Sequence[str]) -> None:
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self._known: dict[int, psutil.Process] = {}

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _members(self) -> list[psutil.Process]:
        """The processes, parents first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        for member in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)

    def cpu_seconds(self) -> float:
        """Processor time of all processes so far, those that have ended and were waited for included."""
        return sum(sum(member.cpu_times()[:4]) for member in self._members())

    def megabytes(self) -> float:
        """Proportional set size: a page that processes share counts once."""
        total = 0
        for member in self._members():
            with contextlib.suppress(psutil.Error):
                total += member.memory_full_info().pss
        return total / 1e6

    def kill(self) -> None:
        """Kill -9 for all of them at once, those that began a session of their own included."""
        members = self._members()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # before the wait: until then the number is ours
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait()
        psutil.wait_procs(members, 5)
