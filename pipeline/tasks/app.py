"""The Celery app: queues, routes, schedule and reliability settings, each with its reason.

Messages are hints and JSON only; what they point at lies in the ledger and the home. Every setting below was tried
against a killed, frozen or restarted server; docs/adr/0001-celery-on-redis.md says what happens without it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent, setup_logging, task_postrun, task_prerun, worker_process_init
from kombu import Queue
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pipeline.base import logs
from pipeline.base.errors import Unavailable
from pipeline.base.process import die_with_parent
from pipeline.base.settings import Settings, load
from pipeline.broker.valkey import broker_url
from pipeline.context import QUEUES, current

EMBEDDING, INDEXING, MAINTENANCE = QUEUES
VISIBILITY_SECONDS = 1800
"""Whatever runs or waits longer is delivered again, concurrently: above the longest backoff plus the task limit."""

RETRY: dict[str, Any] = {
    "autoretry_for": (Unavailable, RedisConnectionError, RedisTimeoutError),  # redis's ConnectionError is no OSError
    "retry_backoff_max": 240,
    "retry_jitter": False,  # 60, 120, 240 s is what the decision record promises
    "max_retries": 3,
}


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """The periodic tasks. Each is idempotent and expires with its period, so a backlog of ticks never forms."""
    every = {
        "rebuild": (settings.rebuild_every, MAINTENANCE),
        "cleanup": (settings.cleanup_every, MAINTENANCE),
        "statistics": (settings.statistics_every, MAINTENANCE),
        "reconcile": (settings.reconcile_every, MAINTENANCE),
        "build": (60.0, INDEXING),  # a safety net: publishes what a lost chord body left behind
    }
    return {
        name: {"task": f"dropdex.{name}", "schedule": timedelta(seconds=seconds), "options": {"expires": seconds, "queue": queue}}
        for name, (seconds, queue) in every.items()
    }


def configuration(settings: Settings) -> dict[str, Any]:
    """All of Celery's settings. The invariants among them are under unit tests."""
    url, _ = broker_url(settings.broker.get_secret_value())
    local = url.startswith("redis+socket:")  # a Unix socket has no keepalive, and redis-py refuses the option
    prefix = f"{settings.namespace}:celery:"
    tasks = settings.task_broker.get_secret_value()
    return {
        "broker_url": tasks or url,
        "result_backend": url,
        "include": [f"pipeline.tasks.{name}" for name in ("embed", "build", "merge", "publish", "maintenance")],
        # JSON only: an unpickled message is remote code.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        # Three queues, their order is the priority.
        "task_queues": [Queue(name) for name in QUEUES],
        "task_create_missing_queues": False,
        "task_default_queue": MAINTENANCE,
        "task_routes": {
            "dropdex.embed": {"queue": EMBEDDING},
            "dropdex.build": {"queue": INDEXING},
            "dropdex.*": {"queue": MAINTENANCE},
        },
        # Acknowledged when done; a lost worker's task is retried and stops at max_retries, where rejecting would loop for ever.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_deduplicate_successful_tasks": False,  # can keep a chord from ever firing
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # loses the running tasks where Redis is broker and backend
        "task_time_limit": settings.task_seconds,
        "task_soft_time_limit": settings.task_seconds * 9 // 10,
        # Results exist for the chords' sake; their counter expires with them, so far above the longest chord.
        "task_ignore_result": True,
        "result_expires": timedelta(days=1),
        "result_chord_expires": timedelta(days=7),
        "result_backend_thread_safe": True,
        "result_backend_always_retry": True,  # else a blip at the end of a task fails it
        "result_backend_max_retries": 30,
        "result_backend_transport_options": {"global_keyprefix": prefix},
        # Connections: retried for ever, and no frozen server holds a publisher.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {} if tasks else redis_transport(prefix, local),
        "redis_socket_timeout": 30,
        "redis_socket_keepalive": not local,
        "redis_backend_health_check_interval": 25,
        # Workers leave in order: SIGTERM finishes what runs, SIGQUIT gives it ten more seconds and returns the rest to its queue.
        "worker_soft_shutdown_timeout": 10,
        "worker_proc_alive_timeout": 60,
        "worker_hijack_root_logger": False,
        # Flower sees everything.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "task_track_started": True,
        # Beat: wakes often, catches a missed period up once.
        "beat_schedule": schedule(settings),
        "beat_max_loop_interval": 5,
        "beat_cron_starting_deadline": 1800,
        "beat_scheduler": "pipeline.tasks.beat:SingleScheduler",
        "timezone": "UTC",
    }


def redis_transport(prefix: str, local: bool) -> dict[str, Any]:
    """How kombu keeps a queue in Redis: what is not acknowledged comes back, and no frozen server holds a worker."""
    return {
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "health_check_interval": 25,
        "global_keyprefix": prefix,
        **({} if local else {"socket_keepalive": True}),
    }


def make_app(settings: Settings) -> Celery:
    """The app for these settings; the module's own `app` has the environment's."""
    made = Celery("dropdex")
    made.conf.update(configuration(settings))
    RETRY["retry_backoff"] = settings.retry_backoff
    return made


@setup_logging.connect
def _log(**_: Any) -> None:
    """One format for every process, ours; Celery's own handlers would print each line twice."""
    logs.configure(load())


@task_prerun.connect
def _begin_task(task_id: str, **_: Any) -> None:
    """Whatever is logged from here on belongs to the task."""
    logs.task.set(task_id)


@task_postrun.connect
def _end_task(**_: Any) -> None:
    logs.task.set("")


@worker_process_init.connect
def _die_with_worker(**_: Any) -> None:
    """A killed worker leaves no child behind."""
    die_with_parent(os.getppid(), signal.SIGKILL)


@heartbeat_sent.connect
def _show_life(sender: Any, **_: Any) -> None:
    """Workers count as up while their heart beats."""
    with suppress(RedisError):
        current().ledger.show_life(sender.eventer.hostname)


def main(command: str, options: Sequence[str]) -> None:
    """Be Celery's `worker` or `beat`, and exit. Its own entry imports every command it has, a shell and Flower among them: 150 ms."""
    from celery.bin.base import CLIContext

    module = importlib.import_module(f"celery.bin.{command}")
    context = CLIContext(app=app, no_color=not sys.stdout.isatty(), workdir=None)
    getattr(module, command).main(list(options), prog_name="celery", obj=context)


app = make_app(load())
