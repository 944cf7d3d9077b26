"""One event per line, the same in every process: time, severity, room, event, and what it was about."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from pipeline.settings import Settings

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record carries; anything else was given as `extra`."""

NOISY = ("faiss", "watchdog", "sentence_transformers", "transformers", "urllib3", "botocore")
"""Libraries whose news is none to an operator."""


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What an event of ours is about: its action, and whatever belongs to it. Libraries' extras are their own affair."""
    if not record.name.startswith("pipeline"):
        return {}
    return {name: value for name, value in vars(record).items() if name not in STANDARD and not name.startswith("_")}


class TextFormatter(logging.Formatter):
    """For people: fields follow as key=value, and no value can begin a new line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return " ".join([line, *(f"{name}={str(value).encode('unicode_escape').decode()}" for name, value in fields_of(record).items())])


class JsonFormatter(logging.Formatter):
    """For machines: one object per event."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "process": record.process,
            **fields_of(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def configure(settings: Settings) -> None:
    """Send every event to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
