"""Every line tells the run it belongs to, and the task; so do the lines of every program that `dropdex up` starts."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base import logs
from pipeline.base.errors import ConfigurationError
from pipeline.base.logs import JsonFormatter, TextFormatter, configure
from pipeline.base.settings import Settings, load
from pipeline.up.run import environment


def record(name: str = "pipeline.tasks.build", **fields: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "msg": "generation published", "levelname": "INFO", "levelno": 20})
    vars(made).update(fields)
    return made


@pytest.fixture
def in_task() -> Iterator[str]:
    token = logs.task.set("7f3c")
    yield "7f3c"
    logs.task.reset(token)


class TestLines:
    def test_the_run_is_in_every_line_whoever_wrote_it(self) -> None:
        for name in ("pipeline.relay.loop", "celery.worker"):
            assert json.loads(JsonFormatter("r1").format(record(name)))["run"] == "r1"
            assert TextFormatter("r1").format(record(name)).endswith("generation published run=r1")

    def test_the_task_is_in_the_lines_that_are_written_in_it(self, in_task: str) -> None:
        assert json.loads(JsonFormatter("r1").format(record()))["task"] == in_task
        assert TextFormatter("r1").format(record()).endswith(f"run=r1 task={in_task}")

    def test_outside_of_tasks_there_is_none(self) -> None:
        assert "task" not in json.loads(JsonFormatter("r1").format(record()))

    def test_what_it_is_about_comes_first(self) -> None:
        line = TextFormatter("r1").format(record(action="published", generation=7, uri="file:///a b"))
        assert line.endswith("generation published action=published generation=7 uri=file:///a b run=r1")

    def test_a_traceback_follows_the_line(self) -> None:
        with pytest.raises(ValueError) as caught:
            int("why")
        failed = record(action="x", exc_info=(caught.type, caught.value, caught.tb))
        first, *rest = TextFormatter("r1").format(failed).splitlines()
        assert first.endswith("action=x run=r1")
        assert rest[-1].startswith("ValueError: ")

    def test_a_process_that_nobody_gave_a_run_has_its_own(self) -> None:
        runs = {json.loads(JsonFormatter().format(record()))["run"] for _ in range(2)}
        assert len(runs) == 1
        assert all(len(run) == 8 for run in runs)


class TestWhoNamesIt:
    def test_up_names_it_for_its_programs(self) -> None:
        first, second = environment(Settings()), environment(Settings())
        assert first["DROPDEX_RUN"]
        assert first["DROPDEX_RUN"] != second["DROPDEX_RUN"]

    def test_unless_somebody_did(self) -> None:
        assert environment(Settings(run="deploy-42"))["DROPDEX_RUN"] == "deploy-42"

    def test_a_name_that_could_pass_for_another_line_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DROPDEX_RUN", "a\nb")
        with pytest.raises(ConfigurationError, match="DROPDEX_RUN"):
            load()

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_the_settings_decide(self, log_format: Any, capsys: pytest.CaptureFixture[str]) -> None:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            configure(Settings(run="r2", log_format=log_format))
            logging.getLogger("pipeline.relay.loop").warning("watch broke", extra={"action": "watch"})
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        said = capsys.readouterr().err
        assert ('"run": "r2"' if log_format == "json" else "run=r2") in said


def test_a_task_of_a_worker_is_named_in_its_lines(tmp_path: Path) -> None:
    """Celery's own signals, in a process of its own: a task that is called here has no worker around it."""
    script = """
import logging
from celery.signals import task_postrun, task_prerun
from pipeline.base import logs
from pipeline.tasks.app import app

task_prerun.send(sender=None, task_id="abc", task=None)
assert logs.task.get() == "abc"
task_postrun.send(sender=None, task_id="abc", task=None)
assert logs.task.get() == ""
print("well")
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DROPDEX_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "well\n", done.stderr
