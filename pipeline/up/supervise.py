"""Programs that run together in one terminal: started wave by wave, restarted when they die, stopped in the other order.

Each leads a process group of its own, so that the terminal's Ctrl-C reaches the supervisor only, and has an order to die with
it. What nobody waits for starts later and gives way to the rest. That takes one session for all: between sessions, Linux
shares the processors out without a look at niceness (sched_autogroup).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.errors import ConfigurationError, DropdexError

log = logging.getLogger(__name__)

AFTERWARDS = 10
"""Niceness in the background: a merge or a tick of Beat takes the cores that embedding and builds leave."""

FAST_DEATHS = 5
"""Deaths within `FAST_SECONDS` after which a program is given up, and everything with it."""

FAST_SECONDS = 60.0
QUIT_SECONDS = 15.0
"""How long a worker asked a second time may take: longer than Celery's soft shutdown, which returns tasks to their queue."""

KILL_SECONDS = 5.0
"""How long a killed program is waited for."""


@dataclass
class Program:
    """One command and its process. `grace` is how long, in seconds, it may take to finish what it does.

    Nobody waits for one in the `background`: it starts later, and gives way to the others.
    """

    name: str
    command: Sequence[str]
    grace: float = 10.0
    background: bool = False
    process: subprocess.Popen[bytes] | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=FAST_DEATHS))


class Supervisor:
    """Keeps programs running. Not a daemon manager: a terminal's worth of processes, and no more."""

    def __init__(self, waves: Sequence[Sequence[Program]], environment: Mapping[str, str], log_folder: Path) -> None:
        self._waves = waves
        self._programs = [program for wave in waves for program in wave]
        self._environment = {**os.environ, **environment}
        self._logs = log_folder

    def start(self) -> None:
        """Start every program that somebody waits for, in order."""
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o750)
        for program in self._programs:
            if not program.background:
                self._start(program)

    def start_background(self) -> None:
        """Start the others, unless they were started before."""
        for program in self._programs:
            if program.background and program.process is None:
                self._start(program)

    def _start(self, program: Program) -> None:
        with (self._logs / f"{program.name}.log").open("ab") as out:
            program.process = subprocess.Popen(
                program.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0, env=self._environment
            )
        if program.background:
            with contextlib.suppress(ProcessLookupError):  # it may have died already
                os.setpriority(os.PRIO_PROCESS, program.process.pid, AFTERWARDS)
        log.info("started", extra={"action": "start", "program": program.name, "pid": program.process.pid})

    def check(self) -> None:
        """Start what died again. Raises DropdexError, with its last words, for a program that cannot stay up."""
        for program in self._programs:
            code = program.process.poll() if program.process else None
            if code is None:
                continue
            program.deaths.append(time.monotonic())
            if code == ConfigurationError.exit_code or (
                len(program.deaths) == FAST_DEATHS and program.deaths[-1] - program.deaths[0] < FAST_SECONDS
            ):
                fault = ConfigurationError if code == ConfigurationError.exit_code else DropdexError
                raise fault(f"{program.name} cannot stay up: {self._last_words(program)}", hint=f"read {self._logs / program.name}.log")
            log.warning("died, starting it again", extra={"action": "restart", "program": program.name, "code": code})
            self._start(program)

    def _last_words(self, program: Program) -> str:
        lines = (self._logs / f"{program.name}.log").read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def stop(self) -> None:
        """Stop wave after wave, the last one first; what is not gone within its grace is asked again, then killed."""
        for wave in reversed(self._waves):
            running = [(program, program.process) for program in wave if program.process]
            for _, process in running:
                process.terminate()
            for program, process in running:
                if not self._ends(process, program.grace):
                    process.send_signal(signal.SIGQUIT)
                    if not self._ends(process, QUIT_SECONDS):
                        log.warning("did not stop in time, killing it", extra={"action": "kill", "program": program.name})
                self._bury(process)

    @staticmethod
    def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @staticmethod
    def _bury(process: subprocess.Popen[bytes]) -> None:
        """End the program's whole group: a killed worker's children are in it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
