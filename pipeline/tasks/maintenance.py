"""What runs by the clock: cleanup, statistics, and the wish for a reconcile. All of it may run twice or late."""

from __future__ import annotations

import json
import logging
import time

from pipeline.context import current
from pipeline.index import upkeep
from pipeline.observe.status import figures
from pipeline.relay.reconcile import DUE
from pipeline.tasks.app import RETRY, app

log = logging.getLogger(__name__)

TOMBSTONE_SECONDS = 86_400.0
"""How long a removal is remembered: far longer than any look that began before it can take to settle."""


@app.task(name="dropdex.cleanup", **RETRY)
def cleanup() -> None:
    """Collect generations, segments and shards that nothing needs, and forget what the ledger no longer has to know."""
    context = current()
    now = time.time()
    s = context.settings
    in_use = context.ledger.shards_in_use()
    deleted = upkeep.gc(context.home, s.keep_generations, s.orphan_seconds, now, in_use=in_use)
    swept = context.ledger.sweep(removed_before=int((now - TOMBSTONE_SECONDS) * 1e6), dead_before=now - s.dead_letter_days * 86_400)
    context.ledger.note("last:cleanup", str(now))
    log.info("cleaned up", extra={"action": "cleanup", "files": len(deleted), **swept})


@app.task(name="dropdex.statistics", **RETRY)
def statistics() -> None:
    """Write down how the pipeline and its index are doing."""
    context = current()
    report = figures(context)
    context.ledger.note("statistics", json.dumps(report))
    context.ledger.note("last:statistics", str(time.time()))
    log.info("statistics", extra={"action": "statistics", **{k: v for k, v in report.items() if isinstance(v, int | float | str)}})


@app.task(name="dropdex.reconcile", **RETRY)
def reconcile() -> None:
    """Ask the watchers for a listing. They own the events, so they list."""
    current().ledger.note("reconcile", DUE)
