"""Commands → functions; printing and exit codes, no logic.

Exit codes: 0 done, 1 no (not found, not equal, failed), 2 the configuration is wrong, 75 try again later.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pipeline.base.errors import DropdexError, Unavailable
from pipeline.base.logs import configure
from pipeline.base.process import die_with_parent, stop_on_signals
from pipeline.base.settings import PREFIX, load, load_for, origins
from pipeline.context import Context, current
from pipeline.observe.health import KINDS

if TYPE_CHECKING:
    from pipeline.index.snapshot import Hit

SNIPPET = 160
"""Characters of a passage that are shown for a hit."""

_ORDERS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys instead of showing them. A document may contain any."""


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


def _echo_each(lines: Iterable[str]) -> int:
    """Print lines as they come; returns how many there were."""
    number = 0
    for line in lines:
        click.echo(line)
        number += 1
    return number


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dropdex")
@click.option("--with-parent", type=int, hidden=True, help="Die with this process.")
def main(with_parent: int | None) -> None:
    """Drop a file; a moment later every reader searches an index that contains it."""
    os.umask(os.umask(0o077) | 0o027)  # logs and scratch files hold names and words of documents: nobody else's, whatever the login says
    if with_parent:
        die_with_parent(with_parent, signal.SIGKILL)  # the broker goes with it, so nothing could be finished in order


# Running ----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", required=False)
@click.option("--port", type=int, help="Flower's port on the loopback interface; 0 starts none.")
def up(source: str | None, port: int | None) -> None:
    """Run everything in this terminal: broker, workers, schedule, watcher and Flower. Ctrl-C stops all of it.

    SOURCE is a folder (./inbox by default) or an s3:// URL.
    """
    from pipeline.up.run import run

    run(source, port, stop_on_signals())


@main.command()
def watch() -> None:
    """Watch the sources and hand over what changes."""
    from pipeline.up.run import watch as run

    configure(load())
    run(stop_on_signals())


@main.command()
@click.argument("queues", nargs=-1, type=click.Choice(["embedding", "indexing", "maintenance"]))
@click.option("--name", default="", help="Stable name of this worker, as Flower shows it.")
def worker(queues: tuple[str, ...], name: str) -> None:
    """Run a worker for the named QUEUES (all of them by default), the first queue first."""
    from pipeline.tasks.workers import run

    configure(load())
    run(queues, name)


@main.command()
def beat() -> None:
    """Run the schedule. A second one waits until the first is gone."""
    from pipeline.tasks.workers import run_beat

    run_beat()


@main.command()
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--address", help="Address to bind. Any but the loopback needs credentials: DROPDEX_FLOWER_BASIC_AUTH.")
def flower(port: int | None, address: str | None) -> None:
    """Run Flower, which shows workers and tasks."""
    from pipeline.tasks.workers import run_flower

    run_flower(port, address)


@main.command()
@click.option("--port", default=9464, show_default=True, type=int, help="Port to listen on.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to bind.")
def metrics(port: int, address: str) -> None:
    """Serve Prometheus metrics of the whole pipeline."""
    from pipeline.observe.metrics import serve

    serve(current(), port, address)


# Doing ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("source", required=False)
@click.option("--dry-run", is_flag=True, help="Print the differences and do nothing.")
@click.option("--allow-removals", is_flag=True, help="Remove however many documents are gone from the source.")
def reconcile(source: str | None, dry_run: bool, allow_removals: bool) -> None:
    """List SOURCE (or the configured ones) and bring the index up to date with it."""
    from pipeline import operate

    context = Context(load_for(source))
    if not dry_run:
        click.echo(operate.reconcile(context, stop_on_signals(), allow_removals=allow_removals))
        return
    number = _echo_each(event.uri for event in operate.differences_of(context, allow_removals=allow_removals))
    click.echo(f"{number} differences", err=True)


@main.command()
@click.option("--full", is_flag=True, help="Merge everything into one segment afterwards.")
def build(full: bool) -> None:
    """Publish what has settled, now and in this process."""
    from pipeline import operate

    configure(load())
    click.echo(operate.build(current(), full=full))


@main.command()
@click.argument("generation", type=int)
def rollback(generation: int) -> None:
    """Serve the content of an earlier GENERATION, and hold building until `resume`."""
    from pipeline.index import upkeep

    manifest = upkeep.rollback(current().home, generation)
    click.echo(f"generation {manifest.generation} serves what {generation} did; building is held until: dropdex resume")


@main.command()
def resume() -> None:
    """Let building go on after a rollback."""
    from pipeline import operate

    click.echo(operate.resume(current()))


@main.command()
@click.argument("generation", type=int)
@click.option("--remove", is_flag=True, help="Let it go again.")
def pin(generation: int, remove: bool) -> None:
    """Keep a GENERATION for rollback, however many follow it."""
    from pipeline.index import upkeep

    (upkeep.unpin if remove else upkeep.pin)(current().home, generation)
    click.echo(f"generation {generation} is {'no longer ' if remove else ''}pinned")


@main.command()
@click.option("--keep", type=click.IntRange(min=1), help="Generations to keep.")
def gc(keep: int | None) -> None:
    """Delete files that no kept generation needs."""
    from pipeline import operate

    deleted = operate.collect(current(), keep)
    for name in deleted:
        click.echo(name)
    click.echo(f"{len(deleted)} files deleted", err=True)


@main.group()
def aws() -> None:
    """What the bucket needs."""


@aws.command("provision")
@click.argument("bucket")
@click.argument("queue")
@click.option("--index", default="", help="Bucket for the index home, if it is another one.")
@click.option("--prefix", default="", help="Only keys below this prefix are told.")
@click.option("--endpoint", default="", help="Endpoint of an emulator.")
@click.option("--region", default="", help="Region to create them in.")
def aws_provision(bucket: str, queue: str, index: str, prefix: str, endpoint: str, region: str) -> None:
    """Create BUCKET, QUEUE, its dead-letter queue and the notifications, or bring them up to date."""
    from pipeline.operate import provision

    for name, value in asdict(provision(bucket, queue, index=index, prefix=prefix, endpoint=endpoint, region=region)).items():
        click.echo(f"{name:16} {value}")


# Asking -----------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("text")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 1000), help="How many passages.")
@click.option("--prefix", default="", help="Only documents whose uri starts with this.")
@click.option("--type", "media_type", default="", help="Only documents of this media type.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def search(text: str, k: int, prefix: str, media_type: str, as_json: bool) -> None:
    """Search the published index for TEXT."""
    from pipeline.index.reader import Reader

    context = current()
    with Reader.open(context.blobs, refresh_every=0) as reader:
        hits = reader.search(text, k, prefix=prefix, media_type=media_type)
    for hit in hits:
        click.echo(json.dumps(asdict(hit), ensure_ascii=False) if as_json else _pretty(hit))
    if not hits:
        click.echo("nothing found", err=True)
        sys.exit(1)


def _pretty(hit: Hit) -> str:
    words = _ORDERS.sub("", " ".join(hit.text.split()))
    return f"{hit.score:.3f}  {hit.uri}:{hit.start}-{hit.end}\n       {words[:SNIPPET]}{'…' if len(words) > SNIPPET else ''}"


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """How the pipeline and its index are doing."""
    from pipeline.observe.status import figures

    report = figures(current())
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        click.echo(f"{name:22} {', '.join(value) if isinstance(value, list) else '' if value is None else value}")


@main.command()
@click.argument("path")
def where(path: str) -> None:
    """Whether the document at PATH (or uri) is searchable, since when, in which generation, or why not."""
    from pipeline.observe.status import whereabouts

    answer = whereabouts(current(), path)
    click.echo(answer.sentence)
    sys.exit(0 if answer.searchable else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def generations(as_json: bool) -> None:
    """The generations that are kept, newest first."""
    for manifest in current().home.generations():
        row = {
            "generation": manifest.generation,
            "created": datetime.fromtimestamp(manifest.created_at).astimezone().isoformat(timespec="seconds"),
            "documents": manifest.live_documents,
            "passages": manifest.live_rows,
            "segments": len(manifest.segments),
            "note": f"{manifest.note}, held" if manifest.held else manifest.note,
        }
        line = "{generation:8}  {created}  {documents} documents, {passages} passages in {segments} segments  {note}"
        click.echo(json.dumps(row) if as_json else line.format(**row))


@main.command()
@click.argument("source", required=False)
def verify(source: str | None) -> None:
    """Compare the index with its digests and with SOURCE (or the configured ones), both ways."""
    from pipeline.observe.verify import problems

    found = _echo_each(problems(Context(load_for(source))))
    if found:
        click.echo(f"{found} problems", err=True)
        sys.exit(1)
    click.echo("the index is what its manifest says, and says what the sources do")


@main.command()
@click.argument("kind", type=click.Choice(KINDS))
def health(kind: str) -> None:
    """Whether the process of this KIND works on this host: exit code 0 or 1, for a container's health check."""
    from pipeline.observe.health import of

    well, sentence = of(current(), kind)
    click.echo(sentence)
    sys.exit(0 if well else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def settings(as_json: bool) -> None:
    """Every setting, its value, where it came from and what it means."""
    loaded = load()
    came_from = origins(loaded)
    values = loaded.model_dump(mode="json")
    if as_json:
        click.echo(json.dumps({name: {"value": value, "origin": came_from[name]} for name, value in values.items()}))
        return
    for name, field in type(loaded).model_fields.items():
        value = ",".join(values[name]) if isinstance(values[name], list) else values[name]
        click.echo(f"{PREFIX}{name.upper()}={value}  ({came_from[name]})\n    {field.description}")


# Dead letters -----------------------------------------------------------------------------------------------------


@main.group()
def dead() -> None:
    """Documents that could not be read."""


@dead.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def dead_list(as_json: bool) -> None:
    """Every dead letter and its reason."""
    for letter in sorted(current().ledger.dead_letters(), key=lambda letter: letter.uri):
        click.echo(json.dumps(asdict(letter), ensure_ascii=False) if as_json else f"{letter.uri}\n    {letter.reason}")


@dead.command("show")
@click.argument("path")
def dead_show(path: str) -> None:
    """One dead letter with everything known about it."""
    from pipeline.observe.status import uri_of

    letter = current().ledger.dead_letter(uri_of(path))
    if letter is None:
        click.echo("no such dead letter", err=True)
        sys.exit(1)
    for name, value in asdict(letter).items():
        click.echo(f"{name:10} {value}")


@dead.command("retry")
@click.argument("paths", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
def dead_retry(paths: tuple[str, ...], every: bool) -> None:
    """Try dead letters again, their attempts forgotten."""
    from pipeline import operate

    click.echo(f"{operate.retry(current(), paths, every=every)} documents handed over")


@dead.command("drop")
@click.argument("paths", nargs=-1, required=True)
def dead_drop(paths: tuple[str, ...]) -> None:
    """Take dead letters off the list; their documents are left alone until they change."""
    from pipeline.observe.status import uri_of

    for path in paths:
        current().ledger.drop(uri_of(path))
