"""Merge segments beside the freshness path: planned by a pure function, committed by the same compare-and-set.

A long merge never stands before a build: it runs in another queue, and what was deleted meanwhile is carried over when
it commits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from pipeline.base.errors import Conflict
from pipeline.context import Context, current
from pipeline.index import upkeep
from pipeline.index.merge import MergePlan
from pipeline.index.writer import Writer
from pipeline.ledger.lease import Lease
from pipeline.tasks.app import RETRY, app
from pipeline.tasks.build import follow_up, held, swap

log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""Renewed at a third of it."""

MERGES = 100
"""Merges in a row after which the rest is left to the next task."""


@app.task(name="dropdex.merge", **RETRY)
def merge() -> None:
    """Merge until no tier is full."""
    _merge_all(current(), Writer.plan_merge)


@app.task(name="dropdex.rebuild", **RETRY)
def rebuild(force: bool = False) -> None:
    """Merge everything into one segment, unless the last rebuild is younger than its period (two schedulers tick twice)."""
    context = current()
    last = float(context.ledger.noted("last:rebuild") or 0)
    if force or time.time() - last >= context.settings.rebuild_every * 0.9:
        _merge_all(context, Writer.plan_rebuild, most=1)  # builds go on meanwhile, so there is always something left to merge
        s = context.settings
        upkeep.gc(context.home, s.keep_generations, s.orphan_seconds, time.time(), in_use=context.ledger.shards_in_use())
        context.ledger.note("last:rebuild", str(time.time()))


def _merge_all(context: Context, next_plan: Callable[[Writer], MergePlan | None], *, most: int = MERGES) -> None:
    lease = Lease(context.redis, f"{context.ledger.namespace}:merge", LEASE_SECONDS)
    if not lease.acquire():
        return  # whoever holds it merges until nothing is due
    try:
        with lease.keep(), context.metering():
            writer = context.building()
            for _ in range(most):
                plan = None if held(writer) else next_plan(writer)
                if plan is None:
                    return
                try:
                    manifest = writer.commit(plan, partial(swap, context, writer.home))
                except Conflict as conflict:
                    log.info("merge overtaken, planning again", extra={"action": "conflict", "reason": str(conflict)})
                    continue
                if manifest:
                    follow_up(context, manifest)
    finally:
        lease.release()
