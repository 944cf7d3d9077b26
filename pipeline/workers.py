"""How each kind of worker runs: pool, concurrency, recycling, name. The reasons are measured, so they stand here once.

embedding     threads: one model per process; one place more than the relay's batches of backfill, so that a live event
              always finds a free thread (the model itself is taken forward pass by forward pass)
indexing      prefork, one child: FAISS and SQLite leak nothing that recycling would not return
maintenance   prefork, one child: a long merge never stands before a build
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.context import current

log = logging.getLogger(__name__)

TASKS_PER_CHILD = 2000
"""Tasks after which a prefork child is replaced: often enough to return leaks, seldom enough not to be felt."""

CHILD_KILOBYTES = 1_500_000
"""Resident memory after which a prefork child is replaced once its task is done."""


def arguments(queues: Sequence[str], name: str) -> list[str]:
    """The command line of Celery's worker for these queues. Embedding needs threads, the rest prefork."""
    settings = current().settings
    if "embedding" in queues:
        pool = ["--pool=threads", f"--concurrency={settings.inflight_batches + 1}"]
    else:
        limits = [f"--max-tasks-per-child={TASKS_PER_CHILD}", f"--max-memory-per-child={CHILD_KILOBYTES}"]
        pool = ["--pool=prefork", "--concurrency=1", *limits]
    hostname = f"--hostname={name or '-'.join(queues)}@%h"
    return [
        "worker",
        f"--queues={','.join(queues)}",
        *pool,
        hostname,
        f"--loglevel={settings.log_level}",
        "--without-gossip",
        "--without-mingle",
    ]


def run(queues: Sequence[str], name: str) -> None:
    """Run a worker until it is told to stop. An embedding worker loads its model first, not at the first document."""
    queues = queues or ("embedding", "indexing", "maintenance")
    if "embedding" in queues:
        current().embedder.warm()
    from pipeline.app import app

    app.worker_main(arguments(queues, name))


def run_beat() -> None:
    """Run the schedule. It keeps no file: see the scheduler."""
    from pipeline.app import app

    app.start(["beat", "--pidfile=", f"--loglevel={current().settings.log_level}"])


def run_flower(port: int | None) -> None:
    """Run Flower on the loopback interface; whoever wants it elsewhere puts a proxy with authentication before it."""
    from pipeline.app import app

    settings = current().settings
    app.start(["flower", "--address=127.0.0.1", f"--port={settings.flower_port if port is None else port}"])
