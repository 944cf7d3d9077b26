"""What a task does: burn the processor time asked for, wait, and note when it was done. The same code for every library.

A completion is 32 bytes appended to one file, so that counting them costs no library anything. The monotonic clock is
one for all processes of a machine, so sender and worker may be compared.
"""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("<qddd")
DONE = "BENCH_DONE"
"""Environment variable: the file of completions."""


class Completion(NamedTuple):
    """One task: its number, and when it was sent, begun and done, in seconds of the monotonic clock."""

    number: int
    sent: float
    begun: float
    done: float


@cache
def _file() -> int:
    return os.open(os.environ[DONE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def work(number: int, sent: float, burn: float, wait: float) -> None:
    """Use `burn` milliseconds of processor time and wait `wait` milliseconds, then write the completion down."""
    begun, until = time.monotonic(), time.thread_time() + burn / 1000
    while burn and time.thread_time() < until:
        pass
    if wait:
        time.sleep(wait / 1000)
    os.write(_file(), RECORD.pack(number, sent, begun, time.monotonic()))


def count(path: Path) -> int:
    return path.stat().st_size // RECORD.size if path.exists() else 0


def completions(path: Path) -> list[Completion]:
    return [Completion(*record) for record in RECORD.iter_unpack(path.read_bytes())]
