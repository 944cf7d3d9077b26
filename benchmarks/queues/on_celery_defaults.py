"""Celery as it comes: acknowledged before it runs, four tasks fetched ahead per process, results kept off.

After a kill -9 the running tasks are lost: they were acknowledged when they began.
"""

from __future__ import annotations

import os

from celery import Celery
from redis import Redis

from benchmarks.queues.work import work

NAME = "Celery, its defaults"
COMMAND = ["celery", "--app=benchmarks.queues.on_celery_defaults", "worker", "--concurrency=4", "--loglevel=ERROR"]

app = Celery("queues", broker=os.environ["BENCH_REDIS"].replace("unix:", "redis+socket:"))
app.conf.update(task_ignore_result=True)

task = app.task(name="work")(work)


def send(number: int, sent: float, burn: float, wait: float) -> None:
    task.apply_async((number, sent, burn, wait))


def kept(redis: Redis) -> int:
    """Messages that Redis still knows of."""
    return int(redis.hlen("unacked")) + int(redis.llen("celery"))
