"""huey with four processes: a task is taken off the list when it begins, and results are off.

There is no acknowledgement: after a kill -9 the running tasks are lost.
"""

from __future__ import annotations

import os

from huey import RedisHuey
from redis import ConnectionPool, Redis

from benchmarks.queues.work import work

NAME = "huey"
COMMAND = ["huey.bin.huey_consumer", "benchmarks.queues.on_huey.huey", "--workers=4", "--worker-type=process", "--quiet", "--no-periodic"]

huey = RedisHuey("bench", connection_pool=ConnectionPool.from_url(os.environ["BENCH_REDIS"]), results=False)
task = huey.task()(work)


def send(number: int, sent: float, burn: float, wait: float) -> None:
    task(number, sent, burn, wait)


def kept(redis: Redis) -> int:
    """Messages that Redis still knows of."""
    return int(huey.pending_count())
