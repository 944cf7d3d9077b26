"""Commands → functions; printing and exit codes, no logic.

Exit codes: 0 done, 1 no (not found, not equal, failed), 2 the configuration is wrong, 75 try again later.
"""

from __future__ import annotations

import signal
import sys
from threading import Event
from typing import Any, ParamSpec, TypeVar

import click

from pipeline.errors import DropdexError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class _Commands(click.Group):
    """Turns every error of ours into a sentence, a hint and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DropdexError as error:
            _fail(error)
        except BrokenPipeError:
            sys.exit(1)
        except Exception as error:
            from redis.exceptions import RedisError

            if not isinstance(error, RedisError):
                raise
            _fail(Unavailable(f"redis does not answer: {error}", hint="is it running? start everything with: dropdex up"))


def _fail(error: DropdexError) -> None:
    click.echo(f"dropdex: {error}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    sys.exit(error.exit_code)


def _stop_on_signals() -> Event:
    """Set at SIGINT and SIGTERM, so that a loop ends where it is safe to end."""
    stop = Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    return stop


def _log_to_stderr() -> None:
    from pipeline.logs import configure
    from pipeline.settings import load

    configure(load())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dropdex")
@click.option("--with-parent", type=int, hidden=True, help="Die with this process.")
def main(with_parent: int | None) -> None:
    """Drop a file; a moment later every reader searches an index that contains it."""
    if with_parent:
        from pipeline.process import die_with_parent

        die_with_parent(with_parent)


# Running ----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", required=False)
@click.option("--port", type=int, help="Flower's port on the loopback interface; 0 starts none.")
def up(source: str | None, port: int | None) -> None:
    """Run everything in this terminal: broker, workers, schedule, watcher and Flower. Ctrl-C stops all of it.

    SOURCE is a folder (./inbox by default) or an s3:// URL.
    """
    from pipeline.up import run

    run(source, port, _stop_on_signals())


@main.command()
def watch() -> None:
    """Watch the sources and hand over what changes."""
    from pipeline.up import watch as run

    _log_to_stderr()
    run(_stop_on_signals())


@main.command()
@click.argument("queues", nargs=-1, type=click.Choice(["embedding", "indexing", "maintenance"]))
@click.option("--name", default="", help="Stable name of this worker, as Flower shows it.")
def worker(queues: tuple[str, ...], name: str) -> None:
    """Run a worker for the named QUEUES (all of them by default), the first queue first."""
    from pipeline.workers import run

    run(queues, name)


@main.command()
def beat() -> None:
    """Run the schedule. A second one waits until the first is gone."""
    from pipeline.workers import run_beat

    run_beat()


@main.command()
@click.option("--port", type=int, help="Port on the loopback interface.")
def flower(port: int | None) -> None:
    """Run Flower, which shows workers and tasks."""
    from pipeline.workers import run_flower

    run_flower(port)
