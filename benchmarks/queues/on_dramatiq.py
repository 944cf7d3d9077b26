"""dramatiq with four processes of one thread: acknowledged when done, results off.

After a kill -9 what the process held is given back once its heartbeat is 60 s old and another process happens to do
maintenance (one command in a thousand).
"""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis

from benchmarks.queues.work import work

NAME = "dramatiq"
COMMAND = ["dramatiq", "benchmarks.queues.on_dramatiq", "--processes=4", "--threads=1"]

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))
task = dramatiq.actor(actor_name="work", queue_name="bench")(work)


def send(number: int, sent: float, burn: float, wait: float) -> None:
    task.send(number, sent, burn, wait)


def kept(redis: Redis) -> int:
    """Messages that Redis still knows of."""
    return int(redis.hlen("dramatiq:bench.msgs"))
