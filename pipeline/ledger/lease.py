"""Single flight by token: one holder at a time, and nobody's wish for work is lost while another holds the lease.

A lease saves work and guards nothing: it may expire under a holder that was paused. What must not happen twice is
guarded by the compare-and-set on CURRENT. Redis errors pass through as they are; the task layer retries on them.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

_ACQUIRE: Final = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
    redis.call('DEL', KEYS[2])
    return 1
end
if ARGV[3] == '1' then redis.call('SET', KEYS[2], '1') end
return 0
"""
"""Taking and asking are one step: between a failed take and a later wish, the holder could look for wishes and leave."""

_RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

_RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

_RELEASE_UNLESS_WANTED: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 1 end
if redis.call('DEL', KEYS[2]) == 1 then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 0
end
redis.call('DEL', KEYS[1])
return 1
"""
"""A wish that was left before our lease expired has nobody but us, so we take the lease again. If another holds it
now, taking it cleared the earlier wishes, and those left since are for that holder."""


class Lease:
    """The lease `name`, as one would-be holder sees it. Not shared between threads: each makes its own.

    For `ttl_seconds` after the last `acquire` or `renew` nobody else gets it.
    """

    def __init__(self, redis: Redis, name: str, ttl_seconds: float) -> None:
        self.name = name
        self.token = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._ttl = ttl_seconds
        self._ttl_ms = max(1, round(ttl_seconds * 1000))
        self._redis = redis
        self._keys = [name, f"{name}:wanted"]
        self._acquire = redis.register_script(_ACQUIRE)
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)
        self._release_unless_wanted = redis.register_script(_RELEASE_UNLESS_WANTED)

    def acquire(self) -> bool:
        """Take the lease where nobody has it. Wishes left by others are fulfilled by the work that begins now."""
        return bool(self._acquire(keys=self._keys, args=[self.token, self._ttl_ms, 0]))

    def acquire_or_want(self) -> bool:
        """Take the lease, or leave a wish that its holder meets in `release_unless_wanted`. Never neither."""
        return bool(self._acquire(keys=self._keys, args=[self.token, self._ttl_ms, 1]))

    def want(self) -> None:
        """Leave a wish. Whoever then calls `acquire` in vain may rely on the holder; the other order loses wishes."""
        self._redis.set(self._keys[1], "1")

    def renew(self) -> bool:
        """Start the time to live anew. False: the lease is no longer ours."""
        return bool(self._renew(keys=self._keys, args=[self.token, self._ttl_ms]))

    def release(self) -> bool:
        """Give up our own lease, never another's. False: it was no longer ours."""
        return bool(self._release(keys=self._keys, args=[self.token]))

    def release_unless_wanted(self) -> bool:
        """True: released (or lost to another holder), go. False: somebody left a wish; we still hold it and must look again."""
        return bool(self._release_unless_wanted(keys=self._keys, args=[self.token, self._ttl_ms]))

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Try to take the lease for a block; yields whether it is ours. Released at the end, however the block ends."""
        mine = self.acquire()
        try:
            yield mine
        finally:
            if mine:
                self.release()

    @contextmanager
    def keep(self) -> Iterator[Event]:
        """Renew in the background for a block of work of unknown length. The yielded event is set once the lease is lost."""
        stop, lost = Event(), Event()
        thread = Thread(target=self._keep_renewing, args=(stop, lost), name=f"lease {self.name}", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            stop.set()
            thread.join()

    def _keep_renewing(self, stop: Event, lost: Event) -> None:
        while not stop.wait(self._ttl / 3):
            try:
                if self.renew():
                    continue
            except RedisError as error:
                log.warning("lease not renewed", extra={"action": "lease_not_renewed", "lease": self.name, "reason": str(error)})
                continue
            log.warning("lease lost", extra={"action": "lease_lost", "lease": self.name})
            lost.set()
            return
