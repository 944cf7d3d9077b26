"""Celery with the settings of dropdex: late acknowledgement, one task at a time, events on, results off.

After a kill -9 of the whole worker, what it held stays in the hash of unacknowledged messages and is delivered again
after the visibility timeout (1,800 s here). A killed child's task is retried at once by its parent.
"""

from __future__ import annotations

from celery import Celery
from kombu import Queue
from redis import Redis

from benchmarks.queues.work import work
from pipeline.base.settings import load
from pipeline.tasks.app import configuration

NAME = "Celery, dropdex's settings"
COMMAND = ["celery", "--app=benchmarks.queues.on_celery", "worker", "--concurrency=4", "--loglevel=WARNING", "--without-gossip"]

app = Celery("queues")
app.conf.update(configuration(load()) | {"include": [], "beat_schedule": {}, "task_routes": {}})
app.conf.update(task_queues=[Queue("bench")], task_default_queue="bench")

task = app.task(name="work")(work)


def send(number: int, sent: float, burn: float, wait: float) -> None:
    task.apply_async((number, sent, burn, wait))


def kept(redis: Redis) -> int:
    """Messages that Redis still knows of."""
    prefix = load().namespace + ":celery:"
    return int(redis.hlen(f"{prefix}unacked")) + int(redis.llen(f"{prefix}bench"))
