"""RQ as it comes: a process is forked for every task, the job's hash is updated as it goes, results are not kept.

After a kill -9 the job stays in the registry of started jobs; once its heartbeat is overdue, a worker's maintenance moves
it to the failed ones, and only a job that was sent with a Retry runs again.
"""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry

from benchmarks.queues.work import work

NAME = "RQ, a fork per task"
COMMAND = ["rq.cli", "worker-pool", "bench", "--num-workers=4", "--quiet", f"--url={os.environ['BENCH_REDIS']}"]

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_REDIS"]))


def send(number: int, sent: float, burn: float, wait: float) -> None:
    queue.enqueue(work, number, sent, burn, wait, result_ttl=0)


def kept(redis: Redis) -> int:
    """Messages that Redis still knows of."""
    return len(StartedJobRegistry(queue=queue).get_job_ids(cleanup=False)) + queue.count + int(redis.llen(queue.intermediate_queue_key))
