"""One event per line, the same in every process: time, severity, room, event, what it was about, and during which run.

A run is one start of the stack: `dropdex up` names it and hands the name to its programs, and a process that is started
alone names its own. So the lines of one run are found together, whoever wrote them, and those of one task among them.
"""

from __future__ import annotations

import json
import logging
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pipeline.base.settings import Settings

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record carries; anything else was given as `extra`."""

NOISY = ("faiss", "watchdog", "sentence_transformers", "transformers", "urllib3", "botocore")
"""Libraries whose news is none to an operator."""


task: ContextVar[str] = ContextVar("task", default="")
"""Id of the task that this thread works on; empty outside of tasks."""


def new_run() -> str:
    """A name for a start of the stack."""
    return uuid.uuid4().hex[:8]


_OWN_RUN = new_run()
"""The run of a process that nobody gave one. Forked children share it."""


def origin(run: str) -> dict[str, str]:
    """Whose line it is: the run, and the task if there is one."""
    return {"run": run or _OWN_RUN} | ({"task": task.get()} if task.get() else {})


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What an event of ours is about: its action, and whatever belongs to it. Libraries' extras are their own affair."""
    if not record.name.startswith("pipeline"):
        return {}
    return {name: value for name, value in vars(record).items() if name not in STANDARD and not name.startswith("_")}


class TextFormatter(logging.Formatter):
    """For people: fields follow as key=value, and no value can begin a new line. A traceback comes after them."""

    def __init__(self, run: str = "") -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")
        self._run = run

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = {**fields_of(record), **origin(self._run)}
        line = super().formatMessage(record)
        return " ".join([line, *(f"{name}={str(value).encode('unicode_escape').decode()}" for name, value in fields.items())])


class JsonFormatter(logging.Formatter):
    """For machines: one object per event."""

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "process": record.process,
            **fields_of(record),
            **origin(self._run),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def configure(settings: Settings) -> None:
    """Send every event to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(settings.run) if settings.log_format == "json" else TextFormatter(settings.run))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
