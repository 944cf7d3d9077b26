"""How a process ends: asked by a signal, in order; and never later than whoever started it, not even after a kill -9."""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import sys
from threading import Event

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that the kernel sends us when the thread that started us ends."""


def die_with_parent(parent: int, signum: signal.Signals) -> None:
    """Ask the kernel for `signum` at the death of `parent`, and go at once if it is gone already. Linux only; else nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signum))
    if os.getppid() != parent:
        raise SystemExit(f"the process {parent} that started this one is gone")


def stop_on_signals() -> Event:
    """Set at SIGINT and SIGTERM, so that a loop ends where it is safe to end.

    A thread sets it: the handler interrupts the main thread, which may hold the event's own lock while it waits for the event.
    """
    stop = Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop
