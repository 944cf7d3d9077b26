"""One library's turn: drain a full queue, follow a steady load, survive kills. The same steps for every library."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

from benchmarks.freshness import quantile
from benchmarks.queues import work
from benchmarks.queues.crew import Crew
from pipeline.broker.valkey import EmbeddedBroker

CONTENDERS = ("on_celery", "on_celery_defaults", "on_rq", "on_rq_simple", "on_dramatiq", "on_huey")
WARM = 40
"""Tasks before anything is measured: every process has imported the task and holds its connection."""
STEADY_RATE = 50
"""Tasks a second of the steady load: a fork per task and 5 ms of work included, below what any library can do here."""
STEADY_TASKS = 500
KILLS = 3


class Workload(NamedTuple):
    """Tasks and what each does: milliseconds of processor time, milliseconds of waiting."""

    name: str
    tasks: int
    burn: float
    wait: float


NOTHING = Workload("nothing", 10_000, 0, 0)
BURN = Workload("5 ms of CPU", 10_000, 5, 0)
WAIT = Workload("16 ms of waiting", 2_000, 0, 16)
"""What the decision record's own figures amount to."""
KILL = Workload("20 ms of CPU", 200, 20, 0)


class Drain(NamedTuple):
    """Waiting tasks. Latency counts from the moment that the workers were let go."""

    rate: float
    average: float
    p95: float
    worker_cpu: float
    redis_cpu: float
    send_cpu: float
    megabytes: float


class Steady(NamedTuple):
    """Latency from just before a task is sent until it is done, at STEADY_RATE."""

    average: float
    p95: float


class Kills(NamedTuple):
    """What KILLS times kill -9 of all workers did to KILLS × 200 tasks: done after a restart, twice, still held, gone."""

    held: int
    gone: int
    twice: int


@contextmanager
def arena() -> Iterator[Callable[[str], Match]]:
    """An embedded Valkey, and a way to open a match on it."""
    folder = Path(tempfile.mkdtemp(prefix="dropdex-queues-"))
    try:
        with EmbeddedBroker(folder / "broker") as broker:
            os.environ.update(
                BENCH_REDIS=broker.urls.redis,
                BENCH_DONE=str(folder / "done"),
                DROPDEX_BROKER=f"embedded:{folder / 'broker'}",
                DROPDEX_MODEL="hash:8",
                DROPDEX_LOG_LEVEL="WARNING",
                DROPDEX_STATE=str(folder),
            )
            yield lambda contender: Match(contender, folder / "done", Redis.from_url(broker.urls.redis))
    finally:
        for name in ("BROKER", "MODEL", "LOG_LEVEL", "STATE"):
            os.environ.pop(f"DROPDEX_{name}", None)
        shutil.rmtree(folder, ignore_errors=True)


class Match:
    """One contender on an empty server."""

    def __init__(self, contender: str, done: Path, redis: Redis) -> None:
        self._done, self._redis = done, redis
        redis.flushall()
        self.side: Any = importlib.import_module(f"benchmarks.queues.{contender}")

    @contextmanager
    def crew(self) -> Iterator[Crew]:
        """Workers that are warm and idle, killed at the end."""
        self._done.unlink(missing_ok=True)
        crew = Crew(self.side.COMMAND)
        try:
            self._send(NOTHING._replace(tasks=WARM))
            self._await(WARM, crew)
            time.sleep(0.5)
            yield crew
        finally:
            crew.kill()

    def _send(self, load: Workload) -> None:
        for number in range(load.tasks):
            self.side.send(number, time.monotonic(), load.burn, load.wait)

    def _await(self, number: int, crew: Crew, seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while work.count(self._done) < number:
            if time.monotonic() > deadline or not crew.alive:
                raise TimeoutError(f"{self.side.NAME}: {work.count(self._done)} of {number} tasks were done")
            time.sleep(0.01)

    def _redis_cpu(self) -> float:
        info: Any = self._redis.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    def drain(self, crew: Crew, load: Workload) -> Drain:
        """Fill the queue while the workers are frozen, then let them go."""
        before = work.count(self._done)
        crew.signal(signal.SIGSTOP)
        sent = time.process_time()
        self._send(load)
        sent = time.process_time() - sent
        cpu, redis_cpu = crew.cpu_seconds(), self._redis_cpu()
        begin = time.monotonic()
        crew.signal(signal.SIGCONT)
        self._await(before + load.tasks, crew)
        ends = [one.done - begin for one in work.completions(self._done)[before:]]
        cpu, redis_cpu = crew.cpu_seconds() - cpu, self._redis_cpu() - redis_cpu
        return Drain(load.tasks / max(ends), statistics.mean(ends), quantile(ends, 0.95), cpu, redis_cpu, sent, crew.megabytes())

    def steady(self, crew: Crew, load: Workload) -> Steady:
        """One task every 1/STEADY_RATE seconds."""
        before, begin = work.count(self._done), time.monotonic()
        for number in range(STEADY_TASKS):
            time.sleep(max(0.0, begin + number / STEADY_RATE - time.monotonic()))
            self.side.send(number, time.monotonic(), load.burn, load.wait)
        self._await(before + STEADY_TASKS, crew)
        waits = [one.done - one.sent for one in work.completions(self._done)[before:]]
        return Steady(statistics.mean(waits), quantile(waits, 0.95))

    def kills(self) -> Kills:
        """Kill all workers in the middle of a queue, start new ones, and see what became of the tasks."""
        held = gone = twice = 0
        for _ in range(KILLS):
            self._redis.flushall()
            with self.crew() as crew:
                crew.signal(signal.SIGSTOP)
                self._send(KILL)
                crew.signal(signal.SIGCONT)
                self._await(WARM + KILL.tasks // 4, crew)
            seen = self._after_restart()
            missing = KILL.tasks - len(set(seen))
            kept = min(missing, int(self.side.kept(self._redis)))
            held, gone, twice = held + kept, gone + missing - kept, twice + len(seen) - len(set(seen))
        return Kills(held, gone, twice)

    def _after_restart(self, quiet: float = 3.0) -> list[int]:
        """The numbers of the tasks that were done, once new workers have had nothing to do for `quiet` seconds."""
        crew = Crew(self.side.COMMAND)
        try:
            last, since, begin = work.count(self._done), time.monotonic(), time.monotonic()
            while time.monotonic() - since < quiet or time.monotonic() - begin < 2 * quiet:
                if (now := work.count(self._done)) != last:
                    last, since = now, time.monotonic()
                time.sleep(0.05)
            return [one.number for one in work.completions(self._done)[WARM:]]
        finally:
            crew.kill()
