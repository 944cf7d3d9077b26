"""How a process of ours ends when it is asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKED_WHILE_IT_HOLDS_THE_LOCK = """
import os, signal, sys
from pipeline.base.process import stop_on_signals

stop = stop_on_signals()
with stop._cond:  # as in the middle of stop.wait()
    os.kill(os.getpid(), int(sys.argv[1]))
    sum(range(1_000_000))  # the handler runs between two instructions
sys.exit(0 if stop.wait(10) else "the signal was lost")
"""


@pytest.mark.parametrize("signum", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_waiting_for_it_stops_too(signum: int) -> None:
    """Given that the main thread has just taken the event's lock, when the signal comes, then it is neither lost nor a deadlock."""
    subprocess.run([sys.executable, "-c", ASKED_WHILE_IT_HOLDS_THE_LOCK, str(signum)], timeout=30, check=True)
