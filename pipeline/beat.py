"""Exactly one Beat fires at a time, however many are started by mistake.

Celery's persistent scheduler, which keeps its last runs in a file, behind a lease in Redis: whoever holds it ticks, the
others wait to take over. A schedule file that lags behind after a takeover catches each missed entry up once.
"""

from __future__ import annotations

from typing import Any

from celery.beat import PersistentScheduler
from redis.exceptions import RedisError

from pipeline.context import current
from pipeline.lease import Lease

LEASE_SECONDS = 20.0
"""Four times the longest pause between two ticks, so that a busy holder keeps it."""

WAIT_SECONDS = 5.0


class SingleScheduler(PersistentScheduler):
    """A PersistentScheduler that only ticks while it holds the lease."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        context = current()
        self._lease = Lease(context.redis, f"{context.settings.namespace}:beat", LEASE_SECONDS)
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        try:
            ours = self._lease.renew() or self._lease.acquire()
        except RedisError:
            return WAIT_SECONDS  # without Redis there is nobody to send a task to either
        return min(super().tick(*args, **kwargs), WAIT_SECONDS) if ours else WAIT_SECONDS

    def close(self) -> None:
        super().close()
        try:
            self._lease.release()
        except RedisError:
            return  # it expires
