"""Exactly one Beat fires at a time, however many are started by mistake, and a restart forgets no tick.

Whoever holds a lease in Redis ticks; the others wait to take over. When each entry last ran lies in Redis too and not in
Celery's schedule file, which a kill -9 can leave unreadable and which another host does not have.
"""

from __future__ import annotations

import socket
from datetime import datetime
from typing import Any, cast

from celery.beat import ScheduleEntry, Scheduler
from redis.exceptions import RedisError

from pipeline.context import current
from pipeline.ledger.lease import Lease

LEASE_SECONDS = 20.0
"""Four times the longest pause between two ticks, so that a busy holder keeps it."""

WAIT_SECONDS = 5.0


class SingleScheduler(Scheduler):
    """A scheduler that ticks only while it holds the lease, and knows what its predecessor has sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        context = current()
        self._redis = context.redis
        self._ledger = context.ledger
        self._ran = f"{context.settings.namespace}:beat:ran"
        self._lease = Lease(context.redis, f"{context.settings.namespace}:beat", LEASE_SECONDS)
        self._taken_over = False
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """The schedule of the settings, and nothing else."""
        self.merge_inplace(self.app.conf.beat_schedule)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, if we hold the lease. Returns the seconds until the next look."""
        try:
            self._ledger.show_life(f"beat@{socket.gethostname()}")  # whoever waits is well, too
            if not self._lease.renew():
                self._taken_over = False
                if not self._lease.acquire():
                    return WAIT_SECONDS
            if not self._taken_over:
                self._take_over()
            return min(super().tick(*args, **kwargs), WAIT_SECONDS)
        except RedisError:
            self._taken_over = False  # what could not be written down was not sent, so it goes on being due
            return WAIT_SECONDS  # without Redis there is nobody to send a task to either

    def _take_over(self) -> None:
        """Go on where the last holder stopped: a period missed meanwhile is caught up once."""
        ran = cast("dict[str, str]", self._redis.hgetall(self._ran))
        for name, entry in self.schedule.items():
            if name in ran:
                entry.last_run_at = datetime.fromisoformat(ran[name])
            else:  # its first period begins now, and goes on through restarts
                self._redis.hset(self._ran, name, _moment(entry))
        self._heap = None  # Celery keeps a heap of due times, computed from what we have just changed
        self._taken_over = True

    def reserve(self, entry: ScheduleEntry) -> Any:
        """Remember that the entry is sent, before it is: a crash in between costs a tick and never doubles one."""
        reserved: Any = super().reserve(entry)
        self._redis.hset(self._ran, entry.name, _moment(reserved))
        return reserved

    def close(self) -> None:
        super().close()
        try:
            self._lease.release()
        except RedisError:
            return  # it expires


def _moment(entry: ScheduleEntry) -> str:
    return (entry.last_run_at or entry.default_now()).isoformat()
