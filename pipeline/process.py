"""A process and its parent: nothing that we start outlives whoever started it, not even after a kill -9."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that the kernel sends us when the thread that started us ends."""


def die_with_parent(parent: int, signum: signal.Signals) -> None:
    """Ask the kernel for `signum` at the death of `parent`, and go at once if it is gone already. Linux only; else nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signum))
    if os.getppid() != parent:
        raise SystemExit(f"the process {parent} that started this one is gone")
