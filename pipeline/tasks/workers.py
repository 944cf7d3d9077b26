"""How each kind of worker runs: pool, concurrency, recycling, name. The reasons are measured, so they stand here once.

embedding     threads: one model per process; one place more than the relay's batches of backfill, so that a live event
              always finds a free thread (the model itself is taken forward pass by forward pass)
indexing      prefork, one child: FAISS and SQLite leak nothing that recycling would not return
maintenance   prefork, one child: a long merge never stands before a build
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from ipaddress import ip_address

from pipeline.base.errors import ConfigurationError
from pipeline.broker.valkey import await_embedded
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
    from pipeline.tasks.app import main

    await_embedded(current().settings.embedded_broker)
    main("worker", arguments(queues, name))


def run_beat() -> None:
    """Run the schedule. It keeps no file: see the scheduler."""
    from pipeline.tasks.app import main

    main("beat", ["--pidfile=", f"--loglevel={current().settings.log_level}"])


def run_flower(port: int | None, address: str | None) -> None:
    """Run Flower."""
    settings = current().settings
    options = flower_arguments(
        settings.flower_port if port is None else port, address or settings.flower_address, settings.flower_basic_auth.get_secret_value()
    )
    from pipeline.tasks.app import app

    app.start(["flower", *options])


def flower_arguments(port: int, address: str, credentials: str) -> list[str]:
    """Flower's options. Whoever reaches it can stop workers, so off the loopback interface it must ask who they are."""
    if credentials and not all(re.fullmatch(r"[^:]+:.+", one) for one in credentials.split(",")):
        raise ConfigurationError("the credentials of Flower are not of the form USER:PASSWORD", hint="correct DROPDEX_FLOWER_BASIC_AUTH")
    if not credentials and not _is_loopback(address):
        raise ConfigurationError(
            f"Flower would let everybody in who reaches {address or 'any address'}",
            hint="set DROPDEX_FLOWER_BASIC_AUTH=USER:PASSWORD, or leave DROPDEX_FLOWER_ADDRESS at 127.0.0.1",
        )
    return [f"--address={address}", f"--port={port}", *([f"--basic-auth={credentials}"] if credentials else [])]


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
