"""RQ's SimpleWorker: the same as RQ, and the task runs in the worker's own process instead of a fork.

Its own documentation keeps it for tests: nothing guards the worker from its task.
"""

from __future__ import annotations

from benchmarks.queues import on_rq
from benchmarks.queues.on_rq import kept, send

__all__ = ["COMMAND", "NAME", "kept", "send"]

NAME = "RQ, SimpleWorker"
COMMAND = [*on_rq.COMMAND, "--worker-class=rq.worker.SimpleWorker"]
