"""What must hold between Celery's settings, our tasks and our schedule. Each of these was once a way to lose or double work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline.base.errors import ConfigurationError
from pipeline.base.settings import Settings
from pipeline.tasks import workers
from pipeline.tasks.app import QUEUES, RETRY, VISIBILITY_SECONDS, app, configuration, make_app
from pipeline.tasks.workers import arguments

TASKS = {
    "dropdex.build",
    "dropdex.cleanup",
    "dropdex.embed",
    "dropdex.merge",
    "dropdex.publish",
    "dropdex.rebuild",
    "dropdex.reconcile",
    "dropdex.statistics",
}


@pytest.fixture(scope="module")
def conf() -> dict[str, Any]:
    return configuration(Settings(broker="redis://localhost:6379/0"))


def backoff() -> list[int]:
    return [min(RETRY["retry_backoff"] * 2**n, RETRY["retry_backoff_max"]) for n in range(RETRY["max_retries"])]


def registered() -> set[str]:
    app.loader.import_default_modules()
    return {name for name in app.tasks if name.startswith("dropdex.")}


def test_every_task_has_a_name_that_a_person_understands() -> None:
    assert registered() == TASKS


def test_nothing_is_delivered_twice_while_it_runs_or_waits_for_its_retry(conf: dict[str, Any]) -> None:
    longest = max(backoff()) + conf["task_time_limit"]
    assert conf["broker_transport_options"]["visibility_timeout"] == VISIBILITY_SECONDS > longest


def test_retries_come_after_60_120_and_240_seconds() -> None:
    make_app(Settings())
    assert backoff() == [60, 120, 240]
    assert RETRY["retry_jitter"] is False


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_retries_when_infrastructure_is_away(name: str) -> None:
    registered()
    task = app.tasks[name]
    assert task.max_retries == 3
    assert RETRY["autoretry_for"] == task.autoretry_for


def test_every_message_is_json(conf: dict[str, Any]) -> None:
    assert conf["accept_content"] == ["json"]
    assert {conf[f"{kind}_serializer"] for kind in ("task", "result", "event")} == {"json"}
    registered()
    assert {task.serializer for name, task in app.tasks.items() if name.startswith("dropdex.")} == {"json"}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_goes_to_a_queue_that_somebody_serves(conf: dict[str, Any], name: str) -> None:
    queue = app.amqp.router.route({}, name)["queue"].name
    assert queue in {queue.name for queue in conf["task_queues"]} == set(QUEUES)
    assert queue == {"dropdex.embed": "embedding", "dropdex.build": "indexing"}.get(name, "maintenance")
    assert conf["task_default_queue"] in QUEUES
    assert conf["task_create_missing_queues"] is False


def test_the_queues_are_served_in_their_order(conf: dict[str, Any]) -> None:
    assert QUEUES == ("embedding", "indexing", "maintenance")
    assert conf["broker_transport_options"]["queue_order_strategy"] == "priority"


@pytest.mark.parametrize("name", ["rebuild", "cleanup", "statistics", "reconcile", "build"])
def test_every_entry_of_the_schedule_names_a_task_and_expires_with_its_period(conf: dict[str, Any], name: str) -> None:
    entry = conf["beat_schedule"][name]
    period = entry["schedule"].total_seconds()
    assert entry["task"] in registered()
    assert 0 < entry["options"]["expires"] <= period
    assert entry["options"]["queue"] == app.amqp.router.route({}, entry["task"])["queue"].name
    assert period >= conf["beat_max_loop_interval"]


def test_the_schedule_of_the_decision_record(conf: dict[str, Any]) -> None:
    periods = {name: entry["schedule"] for name, entry in conf["beat_schedule"].items()}
    assert periods["rebuild"] == timedelta(hours=1)
    assert periods["cleanup"] == timedelta(days=1)
    assert periods["statistics"] == timedelta(minutes=5)
    assert set(periods) == {"rebuild", "cleanup", "statistics", "reconcile", "build"}


def test_work_is_acknowledged_when_it_is_done(conf: dict[str, Any]) -> None:
    assert conf["task_acks_late"]
    assert conf["task_retry_on_worker_lost"]
    assert not conf["task_reject_on_worker_lost"]
    assert conf["worker_prefetch_multiplier"] == 1
    assert not conf["worker_deduplicate_successful_tasks"]
    assert not conf["worker_cancel_long_running_tasks_on_connection_loss"]


def test_a_chord_outlives_its_parts(conf: dict[str, Any]) -> None:
    assert conf["result_chord_expires"] >= conf["result_expires"] > timedelta(seconds=2 * VISIBILITY_SECONDS)
    registered()
    assert not app.tasks["dropdex.embed"].ignore_result  # a part without a result does not count for its chord


def test_no_frozen_server_holds_anybody(conf: dict[str, Any]) -> None:
    options = conf["broker_transport_options"]
    assert 0 < options["socket_timeout"] <= 60
    assert 0 < conf["redis_socket_timeout"] <= 60
    assert options["health_check_interval"] < options["socket_timeout"]
    assert conf["broker_connection_max_retries"] is None


def test_a_unix_socket_is_asked_for_no_keepalive() -> None:
    local = configuration(Settings(broker="embedded:/tmp/x"))
    assert local["broker_url"].startswith("redis+socket:///")
    assert "socket_keepalive" not in local["broker_transport_options"]
    assert not local["redis_socket_keepalive"]
    assert configuration(Settings(broker="redis://h"))["broker_transport_options"]["socket_keepalive"]


def test_pipelines_that_share_a_server_share_no_key() -> None:
    one, two = (configuration(Settings(namespace=name)) for name in ("one", "two"))
    for place in ("broker_transport_options", "result_backend_transport_options"):
        assert one[place]["global_keyprefix"] != two[place]["global_keyprefix"]


def test_soft_limits_come_before_hard_ones(conf: dict[str, Any]) -> None:
    assert 0 < conf["task_soft_time_limit"] < conf["task_time_limit"]


class TestWorkers:
    def test_an_embedding_worker_is_one_process_with_a_thread_for_every_batch_in_flight(self) -> None:
        options = arguments(["embedding"], "embedding-1")
        assert "--pool=threads" in options
        assert f"--concurrency={Settings().inflight_batches + 1}" in options
        assert "--hostname=embedding-1@%h" in options

    @pytest.mark.parametrize("queue", ["indexing", "maintenance"])
    def test_the_others_are_children_that_are_replaced(self, queue: str) -> None:
        options = arguments([queue], "")
        assert {"--pool=prefork", "--concurrency=1"} <= set(options)
        assert f"--max-tasks-per-child={workers.TASKS_PER_CHILD}" in options
        assert f"--max-memory-per-child={workers.CHILD_KILOBYTES}" in options

    def test_a_worker_for_all_takes_embedding_first(self) -> None:
        assert "--queues=embedding,indexing,maintenance" in arguments(QUEUES, "")

    def test_flower_lets_nobody_in_from_outside_without_credentials(self) -> None:
        assert "--address=127.0.0.1" in workers.flower_arguments(5555, "127.0.0.1", "")
        for address in ("0.0.0.0", "", "::", "10.0.0.1", "example.org"):
            with pytest.raises(ConfigurationError):
                workers.flower_arguments(5555, address, "")
            assert "--basic-auth=a:b" in workers.flower_arguments(5555, address, "a:b")
