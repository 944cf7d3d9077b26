"""Bring one generation to one sink. A task per sink, so that a sink that is away delays nobody and is retried alone."""

from __future__ import annotations

import logging

from pipeline.base.errors import Conflict
from pipeline.context import current
from pipeline.tasks.app import RETRY, app

log = logging.getLogger(__name__)


@app.task(name="dropdex.publish", **RETRY)
def publish(sink: str, generation: int) -> None:
    """Publish the served generation to the sink; one that is older than that was superseded and needs nothing."""
    context = current()
    found = context.home.current()
    if sink in context.sinks and found and found[0].generation >= generation:
        try:
            context.sinks[sink].publish(found[0])
        except Conflict as conflict:
            facts = {"sink": sink, "generation": found[0].generation, "reason": str(conflict)}
            log.info("another process serves this sink", extra={"action": "publish", **facts})
