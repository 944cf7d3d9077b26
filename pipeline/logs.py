"""One line per event, the same in every process: time, severity, room, event, and what it was about."""

from __future__ import annotations

import logging

from pipeline.settings import Settings

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record carries; anything else was given as `extra`."""


class EventFormatter(logging.Formatter):
    """Appends a record's own fields as key=value, and keeps every event on one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.name.startswith("pipeline"):
            fields = {name: value for name, value in vars(record).items() if name not in STANDARD and not name.startswith("_")}
            line = " ".join([line, *(f"{name}={str(value).encode('unicode_escape').decode()}" for name, value in fields.items())])
        return line


def configure(settings: Settings) -> None:
    """Send every event to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("faiss", "watchdog", "sentence_transformers", "transformers", "urllib3", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
