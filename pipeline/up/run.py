"""`dropdex up`: the whole pipeline in one terminal, and `dropdex watch`: the relay alone.

Started from the broker outwards and stopped from the watcher inwards, so that nothing is handed over to nobody.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import RedisError

from pipeline.base.errors import DropdexError
from pipeline.base.logs import new_run
from pipeline.base.settings import PREFIX, Settings, load_for
from pipeline.broker.valkey import EmbeddedBroker, await_embedded, broker_url
from pipeline.context import Context
from pipeline.ledger.progress import Rate
from pipeline.observe.status import ledger_figures
from pipeline.up.supervise import Program, Supervisor

if TYPE_CHECKING:
    from pipeline.base.model import Origin
    from pipeline.relay.loop import Flow

PROGRESS_SECONDS = 0.5
"""How often the progress line is drawn on a terminal; elsewhere it is printed when something changed."""

STARTING_SECONDS = 0.1
"""The same until it is ready: somebody waits for that."""

LATE_SECONDS = 3.0
"""After the start, what can wait is done at the latest: the first dropped file shall not wait for an import, nor a merge for ever."""

RATE_SAMPLES = 10
"""Progress lines that the shown documents per second are taken over."""


def watch(stop: Event) -> None:
    """Run the relay until `stop` is set."""
    from pipeline.context import current
    from pipeline.relay.loop import Relay

    context = current()
    await_embedded(context.settings.embedded_broker)
    Relay(context.sources, context.ledger, LateFlow(), context.seed, context.settings).run(stop)


class LateFlow:
    """The Celery side, imported when something is handed over or soon after the start: a start with nothing to do waits for no Celery."""

    def __init__(self) -> None:
        timer = Timer(LATE_SECONDS, self._flow)
        timer.daemon = True
        timer.start()

    def hand_over(self, batches: Iterable[Sequence[str]], origin: Origin) -> None:
        self._flow().hand_over(batches, origin)

    def request_build(self) -> None:
        self._flow().request_build()

    @staticmethod
    def _flow() -> Flow:
        from pipeline.tasks import flow

        return flow


def run(source: str | None, port: int | None, stop: Event) -> None:
    """Run everything until `stop` is set, or raise what keeps a program from staying up."""
    started = time.time()
    settings = load_for(source, **({} if port is None else {"flower_port": port}))
    context = Context(settings)
    broker = EmbeddedBroker(settings.embedded_broker) if settings.embedded_broker else None
    try:
        if broker:
            broker.launch()  # it loads its file while the programs are imported
        prepare(context)
        supervisor = Supervisor(programs(settings), environment(settings), settings.state.absolute() / "logs")
        try:
            supervisor.start()
            if broker:
                broker.await_answer()
            follow(context, supervisor, broker, stop, started)
        finally:
            click.echo("stopping")
            supervisor.stop()
    finally:
        if broker:
            broker.stop()
    click.echo("stopped")


def prepare(context: Context) -> None:
    """Find out what cannot work before anything is started. The default folder is made, a named one must exist."""
    settings = context.settings
    if settings.sources == Settings.model_fields["sources"].default:
        Path("inbox").mkdir(exist_ok=True)
    broker_url(settings.broker.get_secret_value())
    for source in context.sources:
        source.check()
    _ = context.recipe  # a model that cannot be loaded stops here
    context.home.current()  # a broken CURRENT stops here, with a hint
    context.blobs.put(f"probe/{os.getpid()}", b"", durable=False)  # so does an index that cannot be written
    context.blobs.delete(f"probe/{os.getpid()}")


def environment(settings: Settings) -> dict[str, str]:
    """What the programs must agree on, spelled out and with absolute paths, so that all of them mean the same places."""
    folder = settings.embedded_broker
    return {
        f"{PREFIX}SOURCES": ",".join(_absolute(url) for url in settings.sources),
        f"{PREFIX}INDEX": _absolute(settings.index),
        f"{PREFIX}BROKER": f"embedded:{folder}" if folder else settings.broker.get_secret_value(),
        f"{PREFIX}STATE": str(settings.state.absolute()),
        f"{PREFIX}RUN": settings.run or new_run(),
    }


def _absolute(url: str) -> str:
    return f"file:{Path(url.removeprefix('file:').removeprefix('//')).absolute()}" if url.startswith("file:") else url


def programs(settings: Settings) -> list[list[Program]]:
    """In waves, from the inside out: the watcher starts last and stops first, so that what it hands over finds somebody."""

    def ours(name: str, *arguments: str, grace: float = 10.0, background: bool = False) -> Program:
        return Program(name, [sys.executable, "-m", "pipeline", "--with-parent", str(os.getpid()), *arguments], grace, background)

    flower = [ours("flower", "flower", "--port", str(settings.flower_port), background=True)] if settings.flower_port else []
    embedding = [f"embedding-{number}" for number in range(1, settings.workers + 1)]
    return [
        [
            *flower,
            ours("beat", "beat", background=True),
            ours("maintenance", "worker", "maintenance", "--name", "maintenance", grace=30.0, background=True),
            ours("indexing", "worker", "indexing", "--name", "indexing", grace=30.0),
        ],
        [ours(name, "worker", "embedding", "--name", name, grace=30.0) for name in embedding],
        [ours("watch", "watch")],
    ]


def follow(context: Context, supervisor: Supervisor, broker: EmbeddedBroker | None, stop: Event, started: float) -> None:
    """Say when it is ready and how it goes, until `stop` is set; whatever dies is started again."""
    progress, refused = Progress(), ""
    while not stop.wait(PROGRESS_SECONDS if progress.ready else STARTING_SECONDS):
        supervisor.check()
        if progress.ready or time.time() > started + LATE_SECONDS:
            supervisor.start_background()
        if broker and not broker.alive:
            progress.say("the broker died, starting it again")
            broker.start()
        try:
            figures = ledger_figures(context)
            found = context.home.pointer()
            figures["generation"] = found[0].generation if found else 0
            reconciled = float(context.ledger.noted("reconciled") or 0) > started
            warm = any(name.startswith("embedding") for name in figures["alive"])
            before, refused = refused, context.ledger.noted("refused")
        except (RedisError, DropdexError) as error:
            progress.say(f"waiting: {error}")
            continue
        if refused and refused != before:
            progress.say(f"a listing was refused: {refused}")
        if not progress.ready and reconciled and warm and not figures["pending"]:
            progress.ready = True
            progress.say(f"ready after {time.time() - started:.1f} s: {figures['documents']} documents, generation {figures['generation']}")
        progress.show(figures)


class Progress:
    """The progress line: redrawn in place on a terminal, printed when it changes elsewhere."""

    def __init__(self) -> None:
        self.ready = False
        self._terminal = sys.stdout.isatty()
        self._last = ""
        self._rate = Rate(RATE_SAMPLES)

    def show(self, figures: dict[str, Any]) -> None:
        rate = self._rate.of(figures["looked_total"], time.monotonic())
        line = (
            f"{figures['documents']} documents · {figures['pending']} pending · {figures['dead']} dead · generation {figures['generation']}"
        )
        if self._terminal:
            click.echo(f"\r\x1b[2K{line} · {rate:.0f} documents/s", nl=False)
        elif line != self._last:
            click.echo(f"{line} · {rate:.0f} documents/s")
        self._last = line

    def say(self, line: str) -> None:
        click.echo(f"\r\x1b[2K{line}" if self._terminal else line)
