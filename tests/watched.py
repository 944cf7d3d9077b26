"""A source's watch, drained by a thread, so that a test can ask what was told and wait for it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from pipeline.base.errors import DropdexError
from pipeline.base.model import Overflow
from pipeline.sources import Source


class Watched:
    def __init__(self, source: Source) -> None:
        self.told: list[str] = []
        self.overflows: list[str] = []
        self.error: DropdexError | None = None
        self._source = source
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._armed = False
        self._thread = threading.Thread(target=self._drain)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(lambda: self._armed, "the watch to be armed")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive(), "the watch did not stop"

    def wait_for(self, *uris: str) -> None:
        self._wait(lambda: set(uris) <= set(self.told), f"{uris}")

    def wait_for_overflow(self, root: str) -> None:
        self._wait(lambda: root in self.overflows, f"an overflow of {root}")

    def wait_for_error(self) -> DropdexError:
        self._wait(lambda: self.error is not None, "an error")
        assert self.error is not None
        return self.error

    def _wait(self, condition: object, what: str) -> None:
        assert callable(condition)
        with self._news:
            if not self._news.wait_for(lambda: condition() or self.error, 10) or not condition():
                raise AssertionError(f"waited for {what}; told {self.told[-20:]}, overflows {self.overflows}, error {self.error!r}")

    def _drain(self) -> None:
        try:
            for item in self._source.watch(self._stop):
                with self._news:
                    if isinstance(item, Overflow):
                        self.overflows.append(item.root)
                    else:
                        self.told.extend(event.uri for event in item.events)
                        item.ack()
                    self._armed = True
                    self._news.notify_all()
        except DropdexError as error:
            with self._news:
                self.error = error
                self._news.notify_all()
